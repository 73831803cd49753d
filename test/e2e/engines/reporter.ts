/**
 * What `npm run test:engines` says at its end: for each engine what ran, and loudly what did not.
 */
import type { Reporter, TestCase, TestModule } from 'vitest/node'

interface Count {
  passed: number
  failed: number
  notRun: number
}

export default class EnginesReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const counts = new Map<string, Count>()
    for (const module of modules) for (const test of module.children.allTests()) count(counts, test)
    console.log('\nReal engines:')
    for (const [name, { passed, failed, notRun }] of counts) {
      const gap = notRun === 0 ? '' : `, ${notRun} NOT RUN`
      console.log(`  ${name.padEnd(32)}${passed} passed, ${failed} failed${gap}`)
    }
  }
}

function count(counts: Map<string, Count>, test: TestCase): void {
  const [suite = ''] = test.fullName.split(' > ')
  const name = /^(?:real|NOT RUN, because) ([a-z- ]+?)(?: is not there)?:/.exec(suite)?.[1] ?? 'other'
  const found = counts.get(name) ?? { passed: 0, failed: 0, notRun: 0 }
  counts.set(name, found)
  const { state } = test.result()
  if (state === 'passed') found.passed++
  else if (state === 'failed') found.failed++
  else found.notRun++
}
