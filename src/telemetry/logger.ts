/**
 * The logger that the supervisor writes to: the user's own, behind a wall, so that one that throws changes nothing (F17).
 * Ids and numbers only: no prompt, token or secret is ever logged.
 */
export interface Logger {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

const nothing = (): void => {}

export const quietLogger: Logger = { debug: nothing, info: nothing, warn: nothing, error: nothing }

export function safeLogger(logger: Logger): Logger {
  if (logger === quietLogger) return logger
  const safely = (level: keyof Logger) => (fields: object, message: string) => {
    try {
      logger[level](fields, message)
    } catch {
      // A logger has nobody left to complain to.
    }
  }
  return { debug: safely('debug'), info: safely('info'), warn: safely('warn'), error: safely('error') }
}
