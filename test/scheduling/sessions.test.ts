/**
 * Sessions: where a prefix is believed to be, and for how long.
 */
import { expect, test } from 'vitest'
import { createSession, createSessions, noteAttempt } from '../../src/scheduling/sessions.ts'

test('a session is where its last attempt ended well, or was interrupted', () => {
  const session = createSession()
  expect(session).toEqual({ instance: null, version: null })
  noteAttempt(session, 'a', null, 'finished')
  noteAttempt(session, 'b', 3, 'interrupted')
  expect(session).toEqual({ instance: 'b', version: 3 })
  noteAttempt(session, 'c', 3, 'cancelled')
  expect(session).toEqual({ instance: 'b', version: 3 })
})

test.each(['failed', 'busy', 'timedOut'] as const)('it is forgotten where it %s, and nowhere else', (end) => {
  const session = createSession()
  noteAttempt(session, 'a', null, 'finished')
  noteAttempt(session, 'b', null, end)
  expect(session.instance).toBe('a')
  noteAttempt(session, 'a', null, end)
  expect(session.instance).toBe(null)
})

test('the latest sessions are kept, and no more than the limit (D19)', () => {
  const sessions = createSessions(3)
  const first = sessions.open('first')
  for (const name of ['second', 'third', 'first', 'fourth']) noteAttempt(sessions.open(name), name, null, 'finished')
  expect(sessions.open('first')).toBe(first)
  expect(sessions.open('third').instance).toBe('third')
  // The second was the oldest: it is another by now, and with it the fourth is the oldest that goes.
  expect(sessions.open('second').instance).toBe(null)
  expect(sessions.open('fourth').instance).toBe(null)
})
