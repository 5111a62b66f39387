
'use strict';
(() => {
const PERIOD = 2000;
const KEPT_MS = 130000;
const MOST_ROWS = 200;
const SHOWN_QUANTILES = [25, 50, 95];
const DASH = '\u2013';
const $ = id => document.getElementById(id);
const fleet = JSON.parse($('fleet').textContent);

// ---- Statistics: the last two minutes, newest last.

const samples = [];
let failingSince = null;

const short = name => name.replace(/^wasmcustom\.aoai\./, '');

function read(answer) {
  const values = new Map();
  for (const {name, value, histograms} of answer.stats || []) {
    if (typeof name === 'string' && typeof value === 'number') values.set(short(name), value);
    if (histograms) readQuantiles(histograms, values);
  }
  return values;
}

// Envoy computes these quantiles since it started: `backend.NAME.first_content_ms.p95`, and so on.
function readQuantiles(histograms, values) {
  const quantiles = histograms.supported_quantiles || [];
  for (const {name, values: computed} of histograms.computed_quantiles || []) {
    quantiles.forEach((quantile, i) => {
      const value = computed[i] && computed[i].cumulative;
      if (SHOWN_QUANTILES.includes(quantile) && typeof value === 'number') values.set(short(name) + '.p' + quantile, value);
    });
  }
}

function keep(values) {
  const now = {t: performance.now(), values};
  const last = samples[samples.length - 1];
  // Counters begin at 0 again after a restart of Envoy.
  if (last && uptime(last.values) > uptime(values)) samples.length = 0;
  samples.push(now);
  while (samples[0].t < now.t - KEPT_MS) samples.shift();
}

const uptime = values => values.get('server.uptime') || 0;
const latest = () => samples[samples.length - 1].values;
const value = name => latest().get(name) || 0;
const has = name => latest().has(name);

// The growth of these counters, all together, in the last seconds: {count, seconds}, or null without an older sample.
function growth(names, seconds) {
  const end = samples[samples.length - 1];
  let start = samples[0];
  for (const sample of samples) if (sample.t <= end.t - seconds * 1000 + 500) start = sample;
  if (start === end) return null;
  let count = 0;
  for (const name of names) count += (end.values.get(name) || 0) - (start.values.get(name) || 0);
  return {count: Math.max(0, count), seconds: (end.t - start.t) / 1000};
}

function rate(names, seconds = 10) {
  const grown = growth(names, seconds);
  return grown && grown.count / grown.seconds;
}

const lately = names => { const grown = growth(names, 60); return grown ? grown.count : 0; };

// The growth of the counters per second, sample by sample.
function course(names) {
  const points = [];
  for (let i = 1; i < samples.length; i++) {
    let count = 0;
    for (const name of names) count += (samples[i].values.get(name) || 0) - (samples[i - 1].values.get(name) || 0);
    points.push([samples[i].t, Math.max(0, count) * 1000 / (samples[i].t - samples[i - 1].t)]);
  }
  return points;
}

// The middle parts of all names of this form.
function named(pattern) {
  const found = new Set();
  for (const name of latest().keys()) {
    const match = pattern.exec(name);
    if (match) found.add(match[1]);
  }
  return [...found];
}

// ---- Words and numbers.

function number(n) {
  if (n === null || n === undefined) return DASH;
  if (n >= 1e9) return (n / 1e9).toFixed(2) + ' G';
  if (n >= 1e6) return (n / 1e6).toFixed(2) + ' M';
  if (n >= 1e4) return (n / 1e3).toFixed(1) + ' k';
  if (n >= 100 || Number.isInteger(n)) return String(Math.round(n));
  return n.toFixed(1);
}

const perSecond = names => { const n = rate(names); return n === null ? DASH : number(n) + '/s'; };
const percent = n => n === null ? DASH : (n > 0 && n < 0.01 ? '<1' : Math.round(100 * n)) + ' %';

function time(seconds) {
  if (seconds < 120) return seconds + ' s';
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return minutes + ' min';
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return hours + ' h ' + minutes % 60 + ' min';
  return Math.floor(hours / 24) + ' d ' + hours % 24 + ' h';
}

const duration = ms => ms < 1000 ? Math.round(ms) + ' ms' : ms < 1e5 ? (ms / 1000).toFixed(1) + ' s' : time(Math.round(ms / 1000));

// Without such statistics the number is unknown. A statistic that was never used is 0.
const inFlight = backends => backends.some(backend => has('cluster.' + backend.cluster + '.upstream_rq_active'));
const flying = backend => value('cluster.' + backend.cluster + '.upstream_rq_active');
// In the unit of the prices.
const money = micros => (micros / 1e6).toFixed(2);
const plural = (n, one, many) => number(n) + ' ' + (n === 1 ? one : many);

// ---- The document. Names come from statistics: they are only ever set as text.

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, text] of Object.entries(attributes || {})) if (text !== undefined) made.setAttribute(name, text);
  for (const child of children) if (child !== undefined && child !== null) made.append(child);
  return made;
}

function spark(points) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 100 24');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  if (points.length > 1) {
    const end = points[points.length - 1][0];
    const top = Math.max(...points.map(point => point[1])) || 1;
    const line = points.map(([t, n]) => Math.max(0, 100 - (end - t) / 1200).toFixed(1) + ' ' + (22 - 20 * n / top).toFixed(1));
    const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
    path.setAttribute('d', 'M' + line.join('L'));
    svg.append(path);
  }
  return svg;
}

// A cell is a text, or {text, sub, badge, bar, spark}; `sub` may be several lines.
function fill(cell, content) {
  const parts = typeof content === 'object' ? content : {text: content};
  const signature = JSON.stringify(parts);
  if (cell.signature === signature) return;
  cell.signature = signature;
  cell.replaceChildren();
  if (parts.badge) cell.append(element('span', {class: 'badge ' + parts.badge}, parts.text));
  else if (parts.text !== undefined) cell.append(parts.text);
  for (const line of [parts.sub || []].flat()) cell.append(element('span', {class: 'sub'}, line));
  if (parts.bar !== undefined) {
    const full = element('i');
    full.style.width = Math.round(100 * (parts.bar || 0)) + '%';
    cell.append(element('div', {class: 'bar', 'aria-hidden': 'true'}, full));
  }
  if (parts.spark) cell.append(element('div', {class: 'spark'}, spark(parts.spark)));
}

// Shows rows of cells in a section's table. A column is [heading, class]; a row's first cell is its key.
function table(section, caption, columns, rows, nothing) {
  const place = $(section);
  const form = columns.map(column => column[0]).join('|');
  if (place.form !== form) {
    place.form = form;
    place.querySelector('.wrap')?.remove();
    const heads = columns.map(([heading, kind]) => element('th', {scope: 'col', role: 'columnheader', class: kind}, heading));
    // The layout as cards removes a table's implicit roles.
    place.body = element('tbody', {role: 'rowgroup'});
    place.note = element('p', {class: 'note'});
    place.table = element('table', {role: 'table', 'aria-label': caption},
      element('thead', {role: 'rowgroup'}, element('tr', {role: 'row'}, ...heads)), place.body);
    place.append(element('div', {class: 'wrap'}, place.table, place.note));
    place.rows = new Map();
  }
  const shown = rows.slice(0, MOST_ROWS);
  place.table.hidden = !rows.length;
  const more = rows.length - shown.length;
  place.note.textContent = !rows.length ? nothing : more > 0 ? 'and ' + more + ' more' : '';
  place.note.hidden = !place.note.textContent;
  const gone = new Map(place.rows);
  shown.forEach(({key, cells}, index) => {
    let row = place.rows.get(key);
    if (!row) {
      row = element('tr', {role: 'row'}, ...columns.map(([heading, kind], i) => i === 0
        ? element('th', {scope: 'row', role: 'rowheader'})
        : element('td', {role: 'cell', class: kind, 'data-label': heading})));
      place.rows.set(key, row);
    }
    gone.delete(key);
    if (place.body.children[index] !== row) place.body.insertBefore(row, place.body.children[index] || null);
    cells.forEach((content, i) => fill(row.children[i], content));
  });
  for (const [key, row] of gone) {
    row.remove();
    place.rows.delete(key);
  }
}

// ---- Backends.

const LOOK = {serving: 'ok', free: 'ok', standby: 'calm', throttled: 'warn', recovering: 'warn', failing: 'bad', misconfigured: 'bad', 'no token': 'bad', unknown: 'calm'};
const OUTCOMES = [
  ['throttled', '429'], ['unavailable', 'failed'], ['permission_denied', 'refused the identity or key'], ['bad_token', 'refused the token'],
  ['deployment_not_found', 'no such deployment'], ['api_not_enabled', 'no such API'], ['client_error', 'client errors'],
];

function backends() {
  const known = new Map(fleet.backends.map(backend => [backend.name, backend]));
  const names = [...known.keys(), ...named(/^backend\.([^.]+)\./).filter(name => !known.has(name))];
  const all = names.map(name => {
    const of = what => 'backend.' + name + '.' + what;
    const backend = {priority: 0, weight: 1, ...known.get(name), name, of};
    backend.isKnown = has(of('state'));
    backend.state = value(of('state'));
    backend.seconds = value(of('cooldown_seconds'));
    backend.attempts = growth([of('attempts')], 60);
    backend.quotas = quotas(name);
    return backend;
  });
  // The priority that serves: the lowest number with a usable backend.
  const usable = all.filter(backend => backend.isKnown && backend.state !== 2 && backend.state !== 3);
  const serving = Math.min(...usable.map(backend => backend.priority));
  for (const backend of all) explain(backend, serving);
  return all;
}

function quotas(backend) {
  const pattern = /^deployment\.(.+)\.state$/;
  const start = 'backend.' + backend + '.';
  const found = [];
  for (const [name, state] of latest()) {
    const match = name.startsWith(start) && pattern.exec(name.slice(start.length));
    if (match) found.push({backend, deployment: match[1], state, seconds: value(start + 'deployment.' + match[1] + '.seconds')});
  }
  return found;
}

// The state of a backend in a word, and the reason in a sentence.
function explain(backend, serving) {
  const {state, seconds, of} = backend;
  const tried = backend.attempts && backend.attempts.count > 0;
  const until = seconds > 0 ? ', for ' + time(seconds) : '';
  const expiry = 'identity.' + (backend.identity || '_default') + '.seconds_left';
  const closed = backend.quotas.filter(quota => quota.state === 1);
  let why = '';
  if (!backend.isKnown) {
    backend.word = 'unknown';
    why = 'no statistics of this backend yet';
  } else if (state === 3) {
    backend.word = 'misconfigured';
    why = 'it refuses the ' + (backend.key ? 'key' : 'identity') + '; tried again ' + (seconds > 0 ? 'in ' + time(seconds) : 'now');
  } else if (!backend.key && has(expiry) && value(expiry) === 0) {
    backend.word = 'no token';
    why = 'there is no access token for it';
  } else if (state === 2) {
    backend.word = 'failing';
    why = 'in cooldown' + until;
  } else if (state === 1) {
    backend.word = 'throttled';
    why = closed.length ? closed.slice(0, 3).map(quota => quota.deployment + ' for ' + time(quota.seconds)).join(', ') +
      (closed.length > 3 ? ' and ' + (closed.length - 3) + ' more' : '') : 'a quota is used up' + until;
  } else if (state === 4) {
    backend.word = 'recovering';
    why = 'its cooldown is over, and it gets few requests at first';
  } else if (tried) {
    backend.word = 'serving';
  } else if (backend.priority > serving) {
    backend.word = 'standby';
    why = 'backends of priority ' + serving + ' serve';
  } else {
    backend.word = 'free';
    why = backend.attempts ? 'no request in the last minute' : '';
  }
  const last = OUTCOMES.map(([outcome, text]) => [lately([of('outcome.' + outcome)]), text]).filter(([count]) => count > 0);
  const notes = [why, last.length ? 'last minute: ' + last.map(([count, text]) => number(count) + '\u00a0\u00d7\u00a0' + text).join(', ') : ''];
  for (const [what, text] of [['panic', 'got requests although it fails: no better backend was left'], ['trials', 'got trials, because all backends are closed']]) {
    if (lately([of(what)]) > 0) notes.push(text);
  }
  backend.why = notes.filter(Boolean).join('; ');
  backend.reason = why;
  backend.isInTrouble = ['warn', 'bad'].includes(LOOK[backend.word]);
}

function showBackends(all) {
  const attempts = all.map(backend => backend.of('attempts'));
  const share = (backend, seconds) => {
    const mine = growth([backend.of('attempts')], seconds), everyone = growth(attempts, seconds);
    return mine && everyone.count ? mine.count / everyone.count : null;
  };
  const troubleOnly = $('trouble').checked;
  $('only').hidden = all.length <= 8;
  const isFlying = inFlight(all);
  const hasTokens = all.some(backend => has(backend.of('tokens.prompt')));
  const columns = [['backend'], ['state', 'wide'], ['share, 10 s', 'num'], ['share, 1 min', 'num'], ['attempts', 'num'], ['in flight', 'num']];
  if (hasTokens) columns.push(['tokens', 'num']);
  columns.push(['2 minutes', 'spark-cell']);
  const rows = all.filter(backend => !troubleOnly || backend.isInTrouble).map(backend => {
    const {of} = backend;
    const standing = 'priority ' + backend.priority + ', weight ' + backend.weight;
    const minute = share(backend, 60);
    const cells = [
      {text: backend.name, sub: [backend.host, standing].filter(Boolean)},
      {text: backend.word, badge: LOOK[backend.word], sub: backend.why},
      percent(share(backend, 10)),
      {text: percent(minute), bar: minute || 0},
      {text: perSecond([of('attempts')]), sub: [number(value(of('attempts'))) + ' in all', plural(value(of('retries')), 'retry', 'retries')]},
      isFlying ? number(flying(backend)) : DASH,
    ];
    const tokens = [of('tokens.prompt'), of('tokens.completion')];
    if (hasTokens) cells.push({text: perSecond(tokens), sub: [
      number(tokens.reduce((sum, name) => sum + value(name), 0)) + ' in all', has(of('cost_micros')) ? 'cost ' + money(value(of('cost_micros'))) : '',
    ].filter(Boolean)});
    cells.push({spark: course([of('attempts')])});
    return {key: backend.name, cells};
  });
  table('backends', 'Backends', columns, rows, troubleOnly ? 'No backend has a problem.' : 'There is no backend.');
}

function showStreams(all) {
  const quantile = (backend, histogram, q) => {
    const name = backend.of(histogram + '.p' + q);
    return has(name) ? value(name) : null;
  };
  const wait = (backend, q) => { const ms = quantile(backend, 'first_content_ms', q); return ms === null ? DASH : duration(ms); };
  const pace = (backend, q) => number(quantile(backend, 'tokens_per_second', q));
  const measured = all.filter(backend => [['first_content_ms', 50], ['tokens_per_second', 50]].some(([what, q]) => quantile(backend, what, q) !== null));
  const rows = measured.map(backend => ({key: backend.name, cells: [
    backend.name, wait(backend, 50), wait(backend, 95), pace(backend, 50), pace(backend, 25),
  ]}));
  const columns = [['backend'], ['first content, median', 'num'], ['first content, 95 % within', 'num'], ['tokens/s, median', 'num'], ['tokens/s, 75 % above', 'num']];
  table('streams', 'Speed of streams', columns, rows, 'No stream has been measured since Envoy started.');
}

const QUOTA = [['open', 'ok', 'it was throttled before'], ['throttled', 'warn', 'requests for it go elsewhere'], ['advised to wait', 'warn', 'used last']];

function showQuotas(all) {
  const found = all.flatMap(backend => backend.quotas);
  const rank = quota => [1, 2, 0].indexOf(quota.state);
  found.sort((a, b) => rank(a) - rank(b) || b.seconds - a.seconds || (a.backend + a.deployment < b.backend + b.deployment ? -1 : 1));
  const rows = found.map(quota => {
    const [word, look, meaning] = QUOTA[quota.state] || ['unknown', 'calm', ''];
    return {key: quota.backend + '.' + quota.deployment, cells: [
      quota.deployment, quota.backend, {text: word, badge: look, sub: meaning}, quota.state ? time(quota.seconds) : DASH,
    ]};
  });
  table('deployments', 'Quotas of deployments', [['deployment'], ['backend'], ['state', 'wide'], ['for', 'num']], rows,
    'No backend has refused a deployment since Envoy started.');
}

// ---- Clients, tokens, counts.

const LIMITS = ['limited.tokens_per_minute', 'limited.tokens_per_day', 'limited.requests_per_minute'];

function showClients() {
  const clients = named(/^client\.([^.]+)\./).map(name => {
    const of = what => 'client.' + name + '.' + what;
    return {name, of, tokens: value(of('tokens.prompt')) + value(of('tokens.completion'))};
  });
  const any = (...what) => clients.some(client => what.some(name => has(client.of(name))));
  clients.sort((a, b) => b.tokens - a.tokens || value(b.of('requests')) - value(a.of('requests')) || (a.name < b.name ? -1 : 1));
  const columns = [['client'], ['requests', 'num']];
  const hasTokens = any('tokens.prompt', 'tokens.completion'), hasCost = any('cost_micros'), hasLimits = any(...LIMITS);
  if (hasTokens) columns.push(['prompt tokens', 'num'], ['completion tokens', 'num'], ['tokens, 1 min', 'num']);
  if (hasCost) columns.push(['cost', 'num']);
  if (hasLimits) columns.push(['over a limit', 'num']);
  const rows = clients.map(({name, of}) => {
    const cells = [name, {text: number(value(of('requests'))), sub: perSecond([of('requests')])}];
    if (hasTokens) {
      const grown = growth([of('tokens.prompt'), of('tokens.completion')], 60);
      cells.push(number(value(of('tokens.prompt'))), number(value(of('tokens.completion'))), grown ? number(grown.count) : DASH);
    }
    if (hasCost) cells.push(money(value(of('cost_micros'))));
    if (hasLimits) {
      const over = LIMITS.map(of);
      const which = LIMITS.filter(limit => lately([of(limit)]) > 0).map(limit => limit.slice(8).replaceAll('_', ' '));
      cells.push({text: number(over.reduce((sum, limit) => sum + value(limit), 0)), sub: [number(lately(over)) + ' in 1 min', ...which]});
    }
    return {key: name, cells};
  });
  table('clients', 'Clients', columns, rows, 'No client is known by name: clients have no keys or tokens, or none has sent a request yet.');
}

function identities(all) {
  return named(/^identity\.(.+)\.seconds_left$/).map(identity => {
    const users = all.filter(backend => !backend.key && (backend.identity || '_default') === identity);
    return {identity, users: users.length, seconds: value('identity.' + identity + '.seconds_left')};
  });
}

function showIdentities(all) {
  const rows = identities(all).map(({identity, users, seconds}) => ({key: identity, cells: [
    {text: identity === '_default' ? 'the identity' : identity, sub: 'of ' + plural(users, 'backend', 'backends')},
    seconds ? {text: 'valid', badge: seconds < 300 ? 'warn' : 'ok'} : {text: 'missing', badge: 'bad'}, seconds ? time(seconds) : DASH,
  ]}));
  table('identities', 'Access tokens', [['identity'], ['token', 'wide'], ['expires in', 'num']], rows, 'Every backend has a key: no token is needed.');
}

const COUNTS = [
  ['refused.throttled', 'answered 429: all backends were throttled or misconfigured'],
  ['refused.unavailable', 'answered 503: all backends refused the identity or the key'],
  ['refused.limited', 'answered 429: a limit of the client was used up'],
  ['refused.no_deployment', 'answered 404: no backend has the deployment'],
  ['refused.not_served', 'no backend can serve the request'],
  ['identity.unavailable', 'answered 503: there was no token'],
  ['identity.failures', 'the token service returned no token'],
  ['stream_broken', 'a backend broke an answer off'],
  ['stream_failed', 'a stream began with an error'],
  ['client_gone', 'the client left before the end'],
  ['bodies_unread', 'the body could not be read'],
  ['usage.unknown', 'an answer reported no tokens'],
];
const NO_RETRY = {
  attempts_exhausted: 'all attempts were made', backends_exhausted: 'every backend was tried', backends_cooling_down: 'the others are in cooldown',
  budget_spent: 'the retry budget is used up', body_too_large: 'the body is too large', replay_memory_full: 'the memory for bodies is full',
  not_repeatable: 'the creation may have been carried out', unknown_operation: 'the path is unknown', headers_not_replayable: 'a header is not UTF-8',
  upgrade: 'a WebSocket', request_incomplete: 'the request was incomplete', router_declined: 'Envoy\u2019s router made no further attempt',
};

function showCounts() {
  const entries = COUNTS.concat(named(/^no_retry\.(.+)$/).sort().map(name => ['no_retry.' + name, 'not retried: ' + (NO_RETRY[name] || name)]));
  const rows = entries.filter(([name]) => value(name) > 0).map(([name, meaning]) => ({key: name, cells: [
    {text: meaning, sub: 'aoai.' + name}, number(lately([name])), number(value(name)),
  ]}));
  table('counts', 'What went wrong', [['requests'], ['last minute', 'num'], ['since Envoy started', 'num']], rows, 'Nothing since Envoy started.');
}

function showTiles(all) {
  const each = what => all.map(backend => backend.of(what));
  const attempts = rate(each('attempts')), retries = rate(each('retries'));
  const left = identities(all).map(identity => identity.seconds);
  const tiles = [
    ['requests', perSecond(['requests']), course(['requests'])],
    ['attempts', perSecond(each('attempts')), course(each('attempts'))],
    ['retries', attempts ? percent(retries / attempts) : DASH, course(each('retries'))],
    ['429s', perSecond(each('outcome.throttled')), course(each('outcome.throttled'))],
    ['failures', perSecond(each('outcome.unavailable')), course(each('outcome.unavailable'))],
    ['in flight', inFlight(all) ? number(all.reduce((sum, backend) => sum + flying(backend), 0)) : DASH],
  ];
  const tokens = each('tokens.prompt').concat(each('tokens.completion'));
  if (tokens.some(has)) tiles.push(['tokens', perSecond(tokens), course(tokens)]);
  if (left.length) tiles.push(['token lasts', Math.min(...left) ? time(Math.min(...left)) : 'no token']);
  const place = $('tiles');
  tiles.forEach(([label, text, points], index) => {
    let tile = place.children[index];
    if (!tile) place.append(tile = element('div', {}, element('dt'), element('dd')));
    fill(tile.children[0], label);
    fill(tile.children[1], {text, spark: points});
  });
  while (place.children.length > tiles.length) place.lastChild.remove();
}

// ---- The verdict.

function say(look, text, more) {
  const place = $('verdict');
  if (place.signature !== look + text + more) {
    place.signature = look + text + more;
    place.className = 'verdict ' + look;
    place.replaceChildren(text);
    if (more) place.append(element('span', {}, more));
  }
  document.title = ({bad: '\u2716 ', warn: '\u25b2 '}[look] || '') + 'Azure OpenAI balancer';
}

function showVerdict(all) {
  if (!all.some(backend => backend.isKnown)) {
    return say('warn', 'Envoy answers, but has no statistics of the balancer yet.', 'The module has not started. Envoy\u2019s log has the reason.');
  }
  const rank = backend => LOOK[backend.word] === 'bad' ? 0 : 1;
  const trouble = all.filter(backend => backend.isInTrouble).sort((a, b) => rank(a) - rank(b));
  const free = all.filter(backend => !['failing', 'misconfigured', 'no token', 'unknown', 'throttled'].includes(backend.word));
  const first = trouble.slice(0, 4).map(backend => backend.name + ' is ' + (backend.word === 'no token' ? 'without a token' : backend.word) + (backend.reason ? ' (' + backend.reason + ')' : ''));
  if (trouble.length > first.length) first.push('and ' + (trouble.length - first.length) + ' more');
  const reasons = first.join('; ');
  const refused = lately(['refused.throttled', 'refused.unavailable', 'identity.unavailable']);
  const available = free.length + ' of ' + plural(all.length, 'backend is', 'backends are') + ' free';
  if (refused > 0) return say('bad', plural(refused, 'request was', 'requests were') + ' refused in the last minute. ' + available + '.', reasons);
  if (!free.length) return say('bad', 'No backend is free.', reasons);
  if (trouble.length) return say('warn', available + '.', reasons);
  say('ok', all.length === 1 ? 'The backend is free.' : 'All ' + all.length + ' backends are free.', '');
}

function show() {
  const all = backends();
  showVerdict(all);
  showTiles(all);
  showBackends(all);
  showStreams(all);
  showQuotas(all);
  showClients();
  showIdentities(all);
  showCounts();
  fill($('foot'), 'These are the counts of this one Envoy, since it started ' + time(uptime(latest())) + ' ago. The module reports them once a second.');
}

// ---- Refreshing.

async function refresh() {
  try {
    const answer = await fetch('/stats', {cache: 'no-store', signal: AbortSignal.timeout(5000)});
    if (!answer.ok) throw new Error('status ' + answer.status);
    keep(read(await answer.json()));
    failingSince = null;
  } catch (error) {
    failingSince ??= new Date();
  }
  document.body.classList.toggle('stale', failingSince !== null);
  if (failingSince) {
    $('live').textContent = 'no answer since ' + failingSince.toLocaleTimeString();
    return say('bad', 'Envoy has not answered since ' + failingSince.toLocaleTimeString() + '.', samples.length ? 'The numbers below are older.' : '');
  }
  $('live').textContent = 'live, ' + new Date().toLocaleTimeString();
  show();
}

async function run() {
  for (let round = 0; ; round++) {
    // A hidden page sends no requests.
    if (document.hidden) await new Promise(seen => document.addEventListener('visibilitychange', seen, {once: true}));
    try {
      await refresh();
    } catch (error) {
      console.error(error);
      say('bad', 'This page has a fault: ' + error.message, '');
    }
    await new Promise(done => setTimeout(done, round ? PERIOD : PERIOD / 2));
  }
}

$('trouble').addEventListener('change', () => { if (samples.length) show(); });
run();
})();
