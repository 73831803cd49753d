/**
 * Long words of a report on a terminal: broken at blanks, and indented so that the columns stay columns. Elsewhere a line stays a line, to be
 * searched for.
 */
import type { Output } from './io.ts'

/** Narrower, a column of words is harder to read than lines that the terminal breaks. */
const NARROWEST = 30

/** Characters of a line, or infinitely many where no terminal breaks it. */
export function columnsOf({ isTTY, columns }: Output): number {
  return isTTY ? columns() : Number.POSITIVE_INFINITY
}

/** The words behind `indent` columns that are already written. */
export function wrap(words: string, indent: number, columns: number): string {
  const width = columns - indent
  if (width < NARROWEST || words.length <= width) return words
  const lines: string[] = []
  let line = ''
  for (const word of words.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line)
      line = word
    } else {
      line = line === '' ? word : `${line} ${word}`
    }
  }
  lines.push(line)
  return lines.join(`\n${' '.repeat(indent)}`)
}
