/**
 * Counts a vitest JSON report: prints `passed failed skipped` on stdout, names what was skipped on stderr.
 * A missing report, a test file that could not be loaded, and a runner that failed with no failed test count as failures.
 * usage: node count-tests.mjs REPORT.json EXIT_CODE
 */
import { existsSync, readFileSync } from 'node:fs'

const [path = '', exitCode = '1'] = process.argv.slice(2)
if (existsSync(path)) {
  const report = JSON.parse(readFileSync(path, 'utf8'))
  const skipped = report.numPendingTests + report.numTodoTests
  const unloaded = report.testResults.filter(
    (/** @type {{ status: string, assertionResults: unknown[] }} */ file) =>
      file.status === 'failed' && file.assertionResults.length === 0,
  ).length
  let failed = report.numFailedTests + unloaded
  if (failed === 0 && (exitCode !== '0' || report.numPassedTests === 0)) failed = 1
  for (const file of report.testResults) {
    for (const test of file.assertionResults) {
      if (test.status === 'pending' || test.status === 'skipped' || test.status === 'todo')
        console.error(`skipped: ${test.fullName}`)
    }
  }
  console.log(report.numPassedTests, failed, skipped)
} else {
  console.error(`no test report at ${path}`)
  console.log(0, 1, 0)
}
