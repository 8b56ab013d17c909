// Runs the public conformance suite of HTTP caches against deploy/varnish/caching.vcl, in a real Varnish with the parameters of an edge and the suite's own origin behind it, all on loopback. It writes what comes of it to the
// file that it is told, and fails if a test failed that must pass and is not among those of known.json, or one that is there passed.
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'

import handleConfig from 'http-cache-tests/server/handle-config.mjs'
import handleState from 'http-cache-tests/server/handle-state.mjs'
import handleTest from 'http-cache-tests/server/handle-test.mjs'
import { getResults, runTests } from 'http-cache-tests/client/runner.mjs'
import suites from 'http-cache-tests/tests/index.mjs'
import fetch from 'node-fetch'

const here = path.dirname(fileURLToPath(import.meta.url))
const root = path.join(here, '..', '..')
const version = JSON.parse(fs.readFileSync(path.join(here, 'package.json'))).dependencies['http-cache-tests']
const known = JSON.parse(fs.readFileSync(path.join(here, 'known.json')))

// origin is the suite's server.
function origin () {
  const handlers = { config: handleConfig, state: handleState, test: handleTest }
  const server = http.createServer((request, response) => {
    const [, what, ...rest] = new URL(request.url, 'http://localhost/').pathname.split('/')
    if (what in handlers) return handlers[what](rest, request, response)
    response.writeHead(404)
    response.end()
  })
  return new Promise(resolve => server.listen(0, '127.0.0.1', () => resolve(server)))
}

// freePort is a port that nobody listens on at the moment.
function freePort () {
  return new Promise(resolve => {
    const server = net.createServer()
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}

// parameters are those with which an edge runs, from its golden file.
function parameters () {
  const golden = fs.readFileSync(path.join(root, 'regions', 'lab', 'engine', 'testdata', 'edge.golden'), 'utf8')
  return [...golden.matchAll(/^ {2}-p\n {2}(\S+)$/gm)].flatMap(found => ['-p', found[1]])
}

// varnish runs in front of the origin until it is killed.
async function varnish (dir, originPort) {
  fs.copyFileSync(path.join(root, 'deploy', 'varnish', 'caching.vcl'), path.join(dir, 'caching.vcl'))
  fs.writeFileSync(path.join(dir, 'test.vcl'), `vcl 4.1;
include "./caching.vcl";
backend origin {
    .host = "127.0.0.1";
    .port = "${originPort}";
}
sub vcl_recv {
    if (req.url !~ "^/test/") { # how the suite talks to its server
        return (pass);
    }
}
`)
  const port = await freePort()
  const args = ['-F', '-j', 'none', '-T', 'none', '-n', path.join(dir, 'work'), '-i', 'edge', '-a', `127.0.0.1:${port}`, '-f', path.join(dir, 'test.vcl'), '-s', 'malloc,64m', ...parameters()]
  const child = spawn('varnishd', args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', text => { output += text })
  child.stderr.on('data', text => { output += text })
  for (let tries = 0; tries < 300; tries++) {
    if (child.exitCode !== null) break
    const up = await new Promise(resolve => {
      const socket = net.connect(port, '127.0.0.1', () => { socket.destroy(); resolve(true) })
      socket.on('error', () => resolve(false))
    })
    if (up) return { child, port }
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  child.kill()
  throw new Error(`Varnish does not serve:\n${output}`)
}

// outcome is what a result means: the suite's own rules, in its words.
function outcome (test, results, all) {
  const result = results[test.id]
  if (result === undefined) return 'untested'
  for (const id of test.depends_on ?? []) {
    if (!['pass', 'yes'].includes(outcome(all.get(id), results, all))) return 'dependency'
  }
  if (result !== true && result[0] === 'Setup') return result[1] === 'retry' ? 'retry' : 'setup'
  const ok = result === true
  switch (test.kind ?? 'required') {
    case 'required': return ok ? 'pass' : 'fail'
    case 'optimal': return ok ? 'pass' : 'optional'
    case 'check': return ok ? 'yes' : 'no'
    default: throw new Error(`test ${test.id} is of an unknown kind`)
  }
}

// cell is text in a table.
const cell = text => String(text).replaceAll('|', '\\|').replaceAll('\n', ' ')

function report (results, all) {
  const columns = ['pass', 'fail', 'optional', 'yes', 'no', 'dependency', 'setup', 'untested']
  const total = Object.fromEntries(columns.map(c => [c, 0]))
  const rows = []
  const failed = []
  const missed = []
  for (const suite of suites) {
    const row = Object.fromEntries(columns.map(c => [c, 0]))
    for (const test of suite.tests) {
      if (test.browser_only) continue
      let o = outcome(test, results, all)
      if (o === 'retry') o = 'setup'
      row[o]++
      total[o]++
      const why = results[test.id]?.[1] ?? ''
      if (o === 'fail') failed.push([test.id, test.name, why, known[test.id] ?? '**not known**'])
      if (o === 'optional') missed.push([test.id, test.name])
    }
    rows.push([suite.name, ...columns.map(c => row[c])])
  }
  const table = (head, lines) => [head, head.map(() => '---'), ...lines].map(line => `| ${line.map(cell).join(' | ')} |`).join('\n')
  return `# HTTP cache tests

What the [public suite](https://cache-tests.fyi) (http-cache-tests ${version}) finds in the rules of the edge, [caching.vcl](../deploy/varnish/caching.vcl), in Debian's Varnish with the parameters of an edge. Written by \`make cache-tests\`; the reasons are in tools/cache-tests/known.json, and
the target fails when a required test fails that has none, or one that has a reason passes. Which requests come to the edge at all is no part of this: [deploy/varnish](../deploy/varnish/README.md).

*pass* and *fail* are tests of what the specification requires, and those of what makes a cache better that passed; *optional* are those of the latter that did not. *yes* and *no* are answers to questions without a right one.
*dependency* and *setup* are tests that say nothing, since what they build on is not so here.

${table(['group', ...columns], [...rows, ['**all**', ...columns.map(c => total[c])]])}

## What fails

${table(['test', 'it says', 'found', 'why'], failed)}

## What could be better

None of it matters to public content, which says how long it is fresh, has one strong ETag and no Vary. Freshness is not guessed, errors are not stored for long whatever they say, and who asks with a cookie or a token is not answered from the cache by these rules (the edge removes both before they are asked).

${missed.map(([id, name]) => `- \`${id}\`: ${name}`).join('\n')}
`
}

// surprises are required tests that fail for no known reason, and known reasons for nothing.
function surprises (results, all) {
  const lines = []
  for (const test of all.values()) {
    const failed = outcome(test, results, all) === 'fail'
    if (failed && !(test.id in known)) lines.push(`${test.id} fails: ${results[test.id][1]}`)
    if (!failed && test.id in known) lines.push(`${test.id} does not fail any more: remove it from known.json`)
  }
  for (const id in known) {
    if (!all.has(id)) lines.push(`${id} is in known.json and no test`)
  }
  return lines
}

const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'cache-tests-'))
let server, cache
try {
  server = await origin()
  cache = await varnish(dir, server.address().port)
  await runTests(suites, fetch, false, `http://127.0.0.1:${cache.port}`, 25)
  const all = new Map(suites.flatMap(suite => suite.tests.filter(test => !test.browser_only)).map(test => [test.id, test]))
  const results = getResults()
  fs.writeFileSync(process.argv[2], report(results, all))
  const lines = surprises(results, all)
  for (const line of lines) console.error(line)
  console.log(`${Object.values(results).filter(r => r === true).length} of ${all.size} tests passed; see ${process.argv[2]}`)
  process.exitCode = lines.length > 0 ? 1 : 0
} finally {
  if (cache) {
    const ended = new Promise(resolve => cache.child.once('exit', resolve))
    cache.child.kill('SIGINT')
    await ended
  }
  server?.closeAllConnections()
  server?.close()
  fs.rmSync(dir, { recursive: true, force: true })
}
