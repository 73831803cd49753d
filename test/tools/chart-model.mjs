/**
 * Reads a machine of XState 5 as a plain picture: its states as a tree, and one arrow for each pair of states that any
 * transitions connect, with a line of text for each transition. Knows nothing of layout or looks.
 *
 * Transitions that stay where they are become lines inside the state. Transitions of a compound state into itself
 * start at a small node "any state" inside it, because such an arrow has nowhere else to start. The machine's own
 * transitions that stay are lines of that node.
 *
 * @typedef {object} ChartState
 * @property {string} id  `state-serving-busy`; the machine itself is `machine-instance`
 * @property {string} name
 * @property {'atomic' | 'compound' | 'final' | 'choice' | 'any'} kind  choice: left at once, by guards alone
 * @property {boolean} initial
 * @property {ChartStep[]} steps  transitions that stay in the state
 * @property {string} description
 * @property {ChartState[]} children
 *
 * @typedef {{ event: string, guard: string }} ChartStep  either may be empty
 * @typedef {{ from: string, to: string, steps: ChartStep[] }} ChartEdge
 * @typedef {{ root: ChartState, edges: ChartEdge[] }} Chart
 *
 * @typedef {import('xstate').AnyStateNode} StateNode
 * @typedef {import('xstate').AnyTransitionDefinition} Transition
 */

/**
 * @param {{ root: StateNode, id: string }} machine
 * @returns {Chart}
 */
export function chartOf(machine) {
  /** @type {Map<string, ChartEdge>} */
  const edges = new Map()
  const root = readState(machine.root, false, edges)
  return { root, edges: [...edges.values()] }
}

/**
 * @param {StateNode} node
 * @param {boolean} initial
 * @param {Map<string, ChartEdge>} edges
 * @returns {ChartState}
 */
function readState(node, initial, edges) {
  const first = node.type === 'compound' ? node.initial.target[0]?.key : undefined
  const children = Object.values(node.states).map((child) => readState(child, child.key === first, edges))
  const id = idOf(node)
  /** @type {ChartStep[]} */
  const steps = []
  const isChoice = node.type === 'atomic' && node.transitions.size === 0 && (node.always?.length ?? 0) > 0
  for (const transitions of [...node.transitions.values(), node.always ?? []]) {
    transitions.forEach((transition, index) => {
      const step = { event: eventOf(transition), guard: guardOf(transition, index) }
      const target = transition.target?.[0]
      if (target === undefined || target === node) {
        if (!isForbidden(transition)) steps.push(step)
        return
      }
      const inward = isInside(target, node)
      if (inward && !children.some((child) => child.kind === 'any')) children.unshift(anyState(id))
      const from = inward ? `any-${id}` : id
      const to = idOf(target)
      const edge = edges.get(`${from}>${to}`) ?? { from, to, steps: [] }
      edge.steps.push(step)
      edges.set(`${from}>${to}`, edge)
    })
  }
  if (node.parent === undefined && steps.length > 0) {
    if (!children.some((child) => child.kind === 'any')) children.unshift(anyState(id))
    const any = children.find((child) => child.kind === 'any')
    any?.steps.push(...steps.splice(0))
  }
  const kind = isChoice ? 'choice' : node.type === 'final' || node.type === 'compound' ? node.type : 'atomic'
  const description = node.description ?? ''
  return {
    id,
    name: node.parent === undefined ? node.machine.id : node.key,
    kind,
    initial,
    steps,
    description,
    children,
  }
}

/** @param {string} parent @returns {ChartState} */
function anyState(parent) {
  const name = parent.startsWith('machine-') ? 'any state' : `any in ${parent.split('-').at(-1)}`
  return { id: `any-${parent}`, name, kind: 'any', initial: false, steps: [], description: '', children: [] }
}

/** @param {StateNode} node */
function idOf(node) {
  return node.parent === undefined ? `machine-${node.machine.id}` : `state-${node.path.join('-')}`
}

/** @param {StateNode} node @param {StateNode} ancestor */
function isInside(node, ancestor) {
  return node.path.length > ancestor.path.length && ancestor.path.every((key, index) => node.path[index] === key)
}

/** An event that is named only so that a parent does not see it. @param {Transition} transition */
function isForbidden({ target, actions, guard }) {
  return target === undefined && actions.length === 0 && guard === undefined
}

/** @param {Transition} transition */
function eventOf({ eventType, source }) {
  const delay = eventType.startsWith('xstate.after.') ? eventType.slice('xstate.after.'.length) : null
  if (delay !== null) return `after ${delay.slice(0, delay.length - source.id.length - 1)}`
  return eventType.replace(/^xstate\./, '')
}

/** @param {Transition} transition @param {number} index  its place among the transitions of the same event */
function guardOf({ guard }, index) {
  if (guard === undefined) return index > 0 ? 'else' : ''
  return guardName(guard)
}

/** @param {unknown} guard @returns {string} */
function guardName(guard) {
  if (typeof guard === 'string') return guard
  if (typeof guard === 'object' && guard !== null && 'type' in guard) return String(guard.type)
  if (typeof guard !== 'function') return String(guard)
  const parts = 'guards' in guard && Array.isArray(guard.guards) ? guard.guards.map(guardName) : []
  const kind = 'check' in guard && typeof guard.check === 'function' ? guard.check.name : guard.name
  if (kind === 'checkNot') return `not ${parts.join('')}`
  return parts.length === 0 ? guard.name : parts.join(kind === 'checkOr' ? ' or ' : ', ')
}
