/**
 * The engines by name.
 */
import { expect, test } from 'vitest'
import { engineFactory, engineNames } from '../../src/engines/index.ts'
import { RolloutError } from '../../src/errors.ts'

test('an engine is found by its name', () => {
  expect(engineNames).toContain('sglang')
  for (const name of engineNames) expect(engineFactory(name)).toBeTypeOf('function')
})

test.each(['sgland', '', 'toString', '__proto__'])(
  'the unknown engine %j is refused with the known ones listed',
  (name) => {
    expect(() => engineFactory(name)).toThrow(RolloutError)
    expect(() => engineFactory(name)).toThrow(
      expect.objectContaining({ code: 'INVALID_OPTIONS', message: expect.stringContaining('sglang') }),
    )
  },
)
