//! The status page in a browser.

use std::time::Duration;

use e2e::{chat_request, simulate, Browser, Gateway};
use render::{Clients, Key};
use serde_json::json;
use simulator::{Behaviour, Stream};

use crate::status::with_status;

const LIMIT: Duration = Duration::from_secs(30);

/// The least contrast between text and its background on the page (WCAG 2: at least 4.5).
const CONTRAST: &str = r"(() => {
  const numbers = color => color.match(/[\d.]+/g).map(Number);
  const light = color => {
    const [r, g, b] = numbers(color).map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (numbers(color)[3] !== 0) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  let least = 21;
  for (const element of document.body.querySelectorAll('*')) {
    const hasText = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!hasText || ['SCRIPT', 'NOSCRIPT'].includes(element.tagName)) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    least = Math.min(least, (a + 0.05) / (b + 0.05));
  }
  return least;
})()";

/// Checks that the page can be read in a light and a dark color scheme, on a desktop and on a phone.
fn assert_readable(browser: &mut Browser, name: &str) {
    for room in ["light", "dark"] {
        for (width, height) in [
            (1200, 900),
            (1100, 800),
            (1080, 800),
            (640, 780),
            (360, 780),
        ] {
            browser.look(width, height, room);
            let contrast = browser.evaluate(CONTRAST).as_f64().unwrap_or_default();
            assert!(contrast >= 4.5, "{room}, {width}: contrast {contrast}");
            let wide = browser.evaluate("document.documentElement.scrollWidth");
            assert!(
                wide.as_u64() <= Some(width.into()),
                "{room}: {wide} of {width} pixels"
            );
            if [1200, 360].contains(&width) {
                browser.screenshot(&format!("{name}-{room}-{width}"));
            }
        }
    }
    // Each table, row and column has a role, even if the table is laid out as cards.
    let plain = "[...document.querySelectorAll('table')].filter(table => !table.hidden).every(table => table.ariaLabel
        && table.querySelector('thead th[scope=col]') && [...table.tBodies[0].rows].every(row => row.querySelector('th[scope=row]')
        && [...row.children].every(cell => cell.role)))";
    assert_eq!(browser.evaluate(plain), true);
}

/// The row whose first cell begins with the name, in the first table of this section, as text on one line.
fn row(browser: &mut Browser, section: &str, name: &str) -> String {
    let rows = format!(
        "[...document.querySelectorAll('#{section} tbody tr')].filter(row => row.cells[0].innerText.split('\\n')[0] === {})
            .map(row => [...row.cells].map(cell => cell.innerText.replace(/\\n+/g, ' ')).join(' | ')).join('\\n')",
        json!(name)
    );
    browser
        .evaluate(&rows)
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn the_status_page_shows_each_backends_state_and_its_cause() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("clients.yaml");
    let key = Key {
        client: "team-a".into(),
        key: "CLIENT-KEY".into(),
    };
    std::fs::write(&file, render::keys_file("x-aoai-client", &[key])).expect("write the keys");
    let azure = simulate(&["serving", "throttled", "failing", "refusing", "standby"]);
    let gateway = Gateway::builder()
        .fleet(move |fleet| fleet.clients = Clients::Keys { file })
        .plugin(|p| {
            p["backends"][4]["priority"] = json!(1);
            p["cooldown"] = json!({"failing": "60s"});
            p["retry"] = json!({"max_attempts": 5});
        })
        .simulator(&azure);
    let gateway = with_status(gateway).start();
    azure.backend("throttled").set(Behaviour::throttled(300));
    azure.backend("failing").set(Behaviour::status(500));
    azure
        .backend("refusing")
        .set(Behaviour::permission_denied());

    let mut browser = Browser::start();
    browser.look(1200, 900, "light");
    browser.open(&format!("http://{}/", gateway.status_address()));
    browser.wait_for(
        "document.querySelectorAll('#backends tbody tr').length === 5",
        LIMIT,
    );
    // Before the token arrives, no backend has one.
    browser.wait_for(
        "/^All 5 backends are free/.test(document.querySelector('#verdict').innerText)",
        LIMIT,
    );
    let serving = row(&mut browser, "backends", "serving");
    assert!(serving.contains("| free"), "{serving}");
    let chat = chat_request();
    let headers = [
        ("content-type", "application/json"),
        ("api-key", "CLIENT-KEY"),
    ];
    for _ in 0..60 {
        let answer = gateway
            .client()
            .send("POST", &chat.path, &headers, &chat.bytes());
        assert_eq!(answer.expect("an answer").status, 200);
    }
    browser.wait_for(
        "/failing is failing/.test(document.querySelector('#verdict').innerText)",
        LIMIT,
    );
    let attempts = "wasmcustom.aoai.backend.serving.attempts";
    gateway.wait_for(
        |gateway| gateway.stat(attempts) == Some(60),
        LIMIT,
        "the attempts",
    );
    browser.wait_for(
        "/60 in all/.test(document.querySelector('#backends').innerText)",
        LIMIT,
    );

    let verdict = browser.text("#verdict");
    for part in [
        "2 of 5 backends are free.",
        "throttled is throttled (gpt-4o for ",
        "refusing is misconfigured (it refuses the identity; tried again in ",
    ] {
        assert!(verdict.contains(part), "{part:?} is not in {verdict}");
    }
    for (name, parts) in [
        (
            "serving",
            &[
                "contoso-serving.openai.azure.com priority 0, weight 1",
                "serving",
                "60 in all",
            ][..],
        ),
        (
            "throttled",
            &[
                "throttled gpt-4o for ",
                "last minute: 1\u{a0}\u{d7}\u{a0}429",
                "1 in all",
            ],
        ),
        (
            "failing",
            &["failing in cooldown, for ", "\u{d7}\u{a0}failed"],
        ),
        (
            "refusing",
            &[
                "misconfigured it refuses the identity",
                "1\u{a0}\u{d7}\u{a0}refused the identity or key",
            ],
        ),
        (
            "standby",
            &[
                "priority 1, weight 1",
                "standby backends of priority 0 serve",
                "0 in all",
            ],
        ),
    ] {
        let row = row(&mut browser, "backends", name);
        for part in parts {
            assert!(row.contains(part), "{part:?} is not in {row}");
        }
    }
    let quota = row(&mut browser, "deployments", "gpt-4o");
    assert!(
        quota.starts_with("gpt-4o | throttled | throttled requests for it go elsewhere | "),
        "{quota}"
    );
    let client = row(&mut browser, "clients", "team-a");
    assert!(client.starts_with("team-a | 60 "), "{client}");
    let tokens = gateway
        .stat("wasmcustom.aoai.client.team-a.tokens.prompt")
        .unwrap_or_default();
    assert!(
        tokens > 0 && client.contains(&format!("| {tokens} |")),
        "{tokens}: {client}"
    );
    let token = row(&mut browser, "identities", "the identity");
    assert!(
        token.starts_with("the identity of 5 backends | valid | "),
        "{token}"
    );
    let stream = Stream {
        events: 20,
        interval_ms: 50,
        first_event_delay_ms: 100,
        ..Stream::default()
    };
    azure.backend("serving").set(Behaviour::stream(stream));
    let mut streamed = chat_request().streaming();
    streamed.body["stream_options"] = json!({"include_usage": true});
    for _ in 0..3 {
        let answer = gateway
            .client()
            .send("POST", &streamed.path, &headers, &streamed.bytes());
        assert_eq!(answer.expect("a stream").status, 200);
    }
    // Envoy merges histograms every five seconds.
    browser.wait_for(
        "/serving/.test(document.querySelector('#streams tbody').innerText)",
        LIMIT,
    );
    let speed = row(&mut browser, "streams", "serving");
    let cells: Vec<&str> = speed.split(" | ").collect();
    let number = |at: usize, unit: &str| {
        let cell: &str = cells.get(at).copied().unwrap_or_default();
        cell.strip_suffix(unit)
            .and_then(|cell| cell.trim().parse::<f64>().ok())
            .unwrap_or_else(|| panic!("{at}: {speed}"))
    };
    let (median, most) = (number(1, "ms"), number(2, "ms"));
    assert!(100.0 <= median && median <= most, "{speed}");
    let (pace, least) = (number(3, ""), number(4, ""));
    assert!(0.0 < least && least <= pace, "{speed}");
    browser.wait_for(
        "/63 in all/.test(document.querySelector('#backends').innerText)",
        LIMIT,
    );
    assert_readable(&mut browser, "five");

    assert_eq!(browser.complaints(), [""; 0]);
    drop(gateway);
    browser.wait_for(
        "/Envoy has not answered since/.test(document.querySelector('#verdict').innerText)",
        LIMIT,
    );
    assert!(
        row(&mut browser, "backends", "serving").contains("63 in all"),
        "what was known stays"
    );
}

/// A replacement for `fetch` in a page: statistics of this many backends, with names that try to be markup.
fn statistics(backends: usize) -> String {
    format!(
        "let asked = 0;
window.fetch = async () => {{
  asked++;
  const stats = [];
  const stat = (name, value) => stats.push({{name: 'wasmcustom.aoai.' + name, value}});
  stats.push({{name: 'server.uptime', value: 7000 + asked}});
  const quantiles = [0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99, 100];
  const computed = [];
  const histogram = (name, least) => computed.push({{
    name: 'wasmcustom.aoai.' + name, values: quantiles.map(q => ({{cumulative: least * (1 + q / 25), interval: null}})),
  }});
  for (let i = 0; i < {backends}; i++) {{
    const at = 'backend.backend-' + String(i).padStart(2, '0') + '.';
    const state = i % 10 < 6 ? 0 : i % 10 - 5;
    stat(at + 'state', state);
    stat(at + 'cooldown_seconds', state && state < 4 ? 10 + i : 0);
    stat(at + 'attempts', 1000 * i + asked * (state ? 1 : 5 + i));
    stat(at + 'retries', 10 * i + asked);
    stat(at + 'outcome.throttled', state === 1 ? asked : 0);
    stat(at + 'tokens.prompt', 123456 * i + 900 * asked);
    stat(at + 'tokens.completion', 4567 * i + 60 * asked);
    if (state === 0) {{
      histogram(at + 'first_content_ms', 150 + 7 * i);
      histogram(at + 'tokens_per_second', 20 + i);
    }}
    if (state === 1) for (const name of ['gpt-4o', 'gpt-4o-mini']) {{
      stat(at + 'deployment.' + name + '.state', 1);
      stat(at + 'deployment.' + name + '.seconds', 10 + i);
    }}
  }}
  stat('requests', 4000 * asked);
  stat('no_retry.<i>x</i>', 3);
  for (const name of ['<img src=x onerror=alert(1)>', 'team-a']) {{
    stat('client.' + name + '.requests', 7 * asked);
    stat('client.' + name + '.tokens.prompt', 700 * asked);
    stat('client.' + name + '.cost_micros', 1230000 * asked);
    stat('client.' + name + '.limited.tokens_per_minute', 2 * asked);
  }}
  stat('identity._default.seconds_left', 3000);
  stats.push({{histograms: {{supported_quantiles: quantiles, computed_quantiles: computed}}}});
  return new Response(JSON.stringify({{stats}}));
}};"
    )
}

#[test]
fn the_status_page_shows_one_backend_and_a_hundred() {
    let azure = simulate(&["backend-00"]);
    let gateway = with_status(Gateway::builder().simulator(&azure)).start();
    for backends in [1, 100] {
        let mut browser = Browser::start();
        browser.look(1200, 900, "light");
        browser.prepare(&statistics(backends));
        browser.open(&format!("http://{}/", gateway.status_address()));
        let rows = format!("document.querySelectorAll('#backends tbody tr').length === {backends}");
        browser.wait_for(&rows, LIMIT);
        browser.wait_for(
            "document.querySelectorAll('#backends path').length > 0",
            LIMIT,
        );
        assert_readable(&mut browser, &format!("backends-{backends}"));
        // Names appear as text.
        assert_eq!(
            browser.evaluate("document.querySelectorAll('main img, main i:not(.bar i)').length"),
            0
        );
        assert!(browser
            .text("#clients")
            .contains("<img src=x onerror=alert(1)>"));
        assert!(browser.text("#clients").contains("tokens per minute"));
        assert_eq!(
            row(&mut browser, "streams", "backend-00"),
            "backend-00 | 450 ms | 720 ms | 60 | 40"
        );
        let measured = browser.evaluate("document.querySelectorAll('#streams tbody tr').length");
        assert_eq!(measured, if backends == 1 { 1 } else { 60 });
        browser.wait_for(
            r"/\b(\d+)\.\d\d\b/.test(document.querySelector('#clients tbody').innerText)",
            LIMIT,
        );
        assert!(browser.text("#counts").contains("not retried: <i>x</i>"));
        assert_eq!(browser.complaints(), [""; 0]);
        if backends == 100 {
            browser.evaluate("document.querySelector('#trouble').click()");
            browser.wait_for(
                "document.querySelectorAll('#backends tbody tr').length === 40",
                LIMIT,
            );
        }
    }
}
