//! The table of results in `docs/behaviour.md`: the measured values, and a check that a run is still as good.

use super::simulation::Counts;

pub(crate) const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/behaviour.md");
const BEGIN: &str = "<!-- Made by `UPDATE_GOLDEN=1 cargo test --test fleet families` -->\n\n";
const END: &str = "\n<!-- End of the table -->\n";
/// A run may serve this many percent less than the page says: any change of the rules draws other random numbers.
const LESS: f64 = 0.4;
/// A run may have this many more 429s per cooldown and quota.
const MORE: f64 = 1.0;

/// The results of one family.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    requests: String,
    /// The requests served, in percent of those that the omniscient balancer serves.
    share: f64,
    /// 429s to requests that a quota can take, for each cooldown of a quota; `None` without any.
    throttled: Option<f64>,
}

impl Row {
    pub(crate) fn of(name: &str, counts: &Counts) -> Self {
        Self {
            name: name.to_owned(),
            requests: with_thousands(counts.requests),
            share: tenths(counts.share()),
            throttled: (counts.cooldowns > 0).then(|| tenths(counts.throttled_per_cooldown())),
        }
    }

    fn render(&self) -> String {
        let throttled = self.throttled.map(|throttled| format!("{throttled:.1}"));
        format!(
            "| {} | {} | {:.1} % | {} |\n",
            self.name,
            self.requests,
            self.share,
            throttled.unwrap_or_else(|| "none".to_owned())
        )
    }

    fn parse(line: &str) -> Self {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, requests, share, throttled] = cells[..] else {
            panic!("{line}");
        };
        Self {
            name: name.to_owned(),
            requests: requests.to_owned(),
            share: share.trim_end_matches(" %").parse().unwrap(),
            throttled: throttled.parse().ok(),
        }
    }

    /// Compares the run with the page.
    fn check(&self, page: &Self) {
        assert_eq!(self.name, page.name, "{RENEW}");
        let name = &self.name;
        let (share, least) = (self.share, page.share - LESS);
        assert!(
            share >= least,
            "{name}: {share:.1} % < {least:.1} %; {RENEW}"
        );
        let throttled = self.throttled.unwrap_or_default();
        let most = page.throttled.unwrap_or_default() + MORE;
        assert!(
            throttled <= most,
            "{name}: {throttled:.1} 429s > {most:.1}; {RENEW}"
        );
    }
}

const RENEW: &str = "if that is meant, run `UPDATE_GOLDEN=1 cargo test --test fleet families` and look at the diff of docs/behaviour.md";

/// Compares these results with the page, or writes them into it if `UPDATE_GOLDEN` is set.
pub(crate) fn check(rows: &[Row]) {
    let text = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let head = "| family | requests | served, of what is possible | 429s per cooldown and quota |\n|---|---:|---:|---:|\n";
        let rows: String = rows.iter().map(Row::render).collect();
        std::fs::write(PAGE, [before, BEGIN, head, &rows, END, after].concat()).unwrap();
        return;
    }
    let page: Vec<_> = table.lines().skip(2).map(Row::parse).collect();
    assert_eq!(rows.len(), page.len(), "{RENEW}");
    for (run, page) in rows.iter().zip(&page) {
        run.check(page);
    }
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Writes `1234567` as `1,234,567`.
fn with_thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
