/**
 * Test runner configuration for real engines (`npm run test:engines`): installs them where they are missing, then runs their tests one after
 * another, because two cores run one server. Not part of `npm test`.
 */
import { defineConfig } from 'vitest/config'
import base from './vitest.config.ts'

export default defineConfig({
  ...base,
  test: {
    include: ['test/e2e/engines/*.test.ts'],
    globalSetup: ['test/e2e/engines/setup.ts'],
    reporters: ['default', './test/e2e/engines/reporter.ts'],
    fileParallelism: false,
    // A server that starts on busy cores takes minutes.
    testTimeout: 1_200_000,
    hookTimeout: 1_200_000,
    teardownTimeout: 60_000,
  },
})
