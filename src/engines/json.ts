/**
 * Reading what a server says without trusting its shape: what is missing or of another kind is empty or null, never an exception.
 */
import { isRecord } from '../problems.ts'

export type Json = Readonly<Record<string, unknown>>

export function asRecord(value: unknown): Json {
  return isRecord(value) ? value : {}
}

export function asRecords(value: unknown): readonly Json[] {
  return Array.isArray(value) ? value.filter(isRecord) : []
}

/** A count or a size, or null. */
export function positive(value: unknown): number | null {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0 ? value : null
}

export function asText(value: unknown): string | null {
  return typeof value === 'string' ? value : null
}

/** Compares releases such as `0.5.23`, `0.32.0` or `1.2rc1`, part by part. */
export function atLeast(version: string, floor: readonly number[]): boolean {
  const parts = version.split('.')
  for (const [i, least] of floor.entries()) {
    const part = Number.parseInt(parts[i] ?? '0', 10)
    if (part !== least) return part > least
  }
  return true
}
