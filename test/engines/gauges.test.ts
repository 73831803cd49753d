/**
 * Sums of gauges from Prometheus text, in the forms that servers write it.
 */
import { expect, test } from 'vitest'
import { sumGauges } from '../../src/engines/gauges.ts'

test.each([
  ['one sample', 'a{x="1"} 3.0\n', 3],
  ['without labels, at the very beginning', 'a 3', 3],
  ['several label sets', 'a{x="1"} 3\na{x="2"} 4.5\n', 7.5],
  ['a timestamp', 'a{x="1"} 3 1790000000\na 4 1790000000\n', 7],
  ['braces and spaces in a label', 'a{x="} 9 {"} 3\n', 3],
  ['names that only begin alike', 'a_created{x="1"} 99\nab 98\na{x="1"} 3\n', 3],
  ['comments that name it', '# HELP a gauge a 5\n# TYPE a gauge\na{x="1"} 3\n', 3],
  ['no number', 'a{x="1"} NaN\na{x="2"} 3\n', 3],
  ['lines that end as on Windows', 'a{x="1"} 3\r\na{x="2"} 4\r\n', 7],
  ['none at all', 'b 3\n', null],
  ['nothing', '', null],
])('%s', (_, text, sum) => {
  expect(sumGauges(text, ['a'])).toEqual({ a: sum })
})
