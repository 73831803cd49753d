/**
 * Which weights a server must say that it has, to serve.
 */
import { can, type Instance } from './run.ts'

/** Null where nothing is expected: of a server without labels, or in an unversioned fleet. One that no server has where its weights are in doubt (R10). */
export function expectedLabel(instance: Instance): string | null {
  const { isTrusted, version } = instance
  if (!isTrusted) return ''
  return version === null || can(instance).versions === 'none' ? null : String(version)
}
