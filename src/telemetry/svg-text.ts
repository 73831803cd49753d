/**
 * Words and numbers in an SVG: escaped, short, and the same in every picture.
 */

export function text(x: number | string, y: number, words: string, css: string, size: number, more = ''): string {
  return `<text class="${css}" x="${x}" y="${px(y)}" font-size="${size}"${more === '' ? '' : ` ${more}`}>${escapeXml(words)}</text>`
}

/** One decimal is a tenth of a pixel. */
export function px(value: number): string {
  return String(Math.round(value * 10) / 10)
}

export function percent(share: number): string {
  return share > 0 && share < 0.001 ? '<0.1 %' : `${(share * 100).toFixed(1)} %`
}

export function duration(ms: number): string {
  if (ms < 1e3) return `${Math.round(ms)} ms`
  return ms < 120e3 ? `${(ms / 1e3).toFixed(1)} s` : `${Math.floor(ms / 60e3)} min ${Math.round((ms % 60e3) / 1e3)} s`
}

export function shorten(words: string, most: number): string {
  return words.length <= most ? words : `${words.slice(0, most - 1)}…`
}

/** For text and attribute values. Characters that XML does not allow at all are replaced. */
export function escapeXml(words: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: exactly those are not allowed in XML
  const clean = words.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '\ufffd')
  return clean.replace(
    /[&<>"]/g,
    (character) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[character] ?? character,
  )
}
