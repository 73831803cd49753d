/**
 * Control routes of an embedded engine that go wrong before or after what they do (RouteFault).
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { RouteFault } from './embedded-faults.ts'
import { sendText } from './embedded-http.ts'

export interface RouteFaults {
  order(path: string, how: RouteFault, times: number): void
  handle(request: IncomingMessage, response: ServerResponse, path: string, pass: () => void): void
  heal(): void
}

export function createRouteFaults(server: {
  readonly stop: () => void
  readonly restart: () => void
  readonly struck: () => void
}): RouteFaults {
  const ordered = new Map<string, RouteFault[]>()

  /** What the route answers is never sent; `then` happens in place of it. */
  function swallow(response: ServerResponse, then: () => void): void {
    const nothing = () => response
    Object.assign(response, {
      writeHead: nothing,
      write: () => true,
      end() {
        then()
        return response
      },
    })
  }

  return {
    order(path, how, times) {
      const list = ordered.get(path) ?? []
      for (let time = 0; time < times; time++) list.push(how)
      ordered.set(path, list)
    },
    handle(request, response, path, pass) {
      const how = ordered.get(path)?.shift()
      if (how === undefined) return pass()
      server.struck()
      switch (how) {
        case 'hang':
          request.resume()
          return
        case 'die':
          return server.stop()
        case 'restart':
          return server.restart()
        case 'pretend':
          request.resume()
          return sendText(response, 200, PRETENCE, 'application/json')
        case 'hangAfter':
          swallow(response, () => {})
          return pass()
        case 'dieAfter':
          swallow(response, server.stop)
          return pass()
        case 'restartAfter':
          swallow(response, server.restart)
          return pass()
      }
    },
    heal: () => ordered.clear(),
  }
}

/** What every control route of SGLang and vLLM says when all is well. */
const PRETENCE = '{"success":true,"message":"ok","status":"ok","results":[null]}'
