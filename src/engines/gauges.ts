/**
 * Gauges out of Prometheus text, summed over their label sets: an engine reports one line per data-parallel rank.
 * Read line by line without splitting the text: a report is some 50 kB, and is asked for often while a server comes to rest.
 */

/** The sum of all samples of each name; null for a name that the text does not have. */
export function sumGauges<N extends string>(text: string, names: readonly N[]): Record<N, number | null> {
  const sums = Object.fromEntries(names.map((name) => [name, null])) as Record<N, number | null>
  for (const name of names) {
    let at = text.startsWith(name) ? 0 : after(text, name, 0)
    while (at >= 0) {
      const next = text[at + name.length]
      // A longer name begins with this one.
      if (next === '{' || next === ' ') sums[name] = (sums[name] ?? 0) + sampleAt(text, at)
      at = after(text, name, at)
    }
  }
  return sums
}

/** Where the next line that begins with `name` begins, or -1. */
function after(text: string, name: string, from: number): number {
  const found = text.indexOf(`\n${name}`, from)
  return found < 0 ? -1 : found + 1
}

/** The value stands after the labels, which may hold anything in quotes but a line break; a timestamp may follow. */
function sampleAt(text: string, at: number): number {
  const end = text.indexOf('\n', at)
  const line = end < 0 ? text.slice(at) : text.slice(at, end)
  const value = Number(line.slice(line.lastIndexOf('}') + 1).match(/\S+/g)?.[line.includes('}') ? 0 : 1])
  return Number.isFinite(value) ? value : 0
}
