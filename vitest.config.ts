/**
 * Test runner configuration. Tests see the sources, not dist, also under the package's own name, so that coverage
 * counts the files that people edit. Tests that start processes use dist, which `npm test` builds first.
 */
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const file = (path: string) => fileURLToPath(new URL(path, import.meta.url))

export default defineConfig({
  resolve: {
    alias: [
      { find: /^rollout-supervisor$/, replacement: file('./src/index.ts') },
      { find: /^rollout-supervisor\/machines$/, replacement: file('./machines/index.ts') },
      { find: /^rollout-supervisor\/testing$/, replacement: file('./src/testing/index.ts') },
    ],
  },
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/e2e/engines/**', 'node_modules/**'],
    testTimeout: 30_000,
    coverage: {
      provider: 'v8',
      include: ['src/**/*.ts', 'machines/**/*.ts'],
      reporter: ['text-summary', 'json-summary'],
      reportsDirectory: 'coverage',
      reportOnFailure: true,
    },
  },
})
