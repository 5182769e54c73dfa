//! What the checks found, for people and for machines.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

use super::count;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Works, and somebody should know.
    Warning,
    /// Does not work, or a promise does not hold.
    Error,
}

/// Something that is wrong: what was found, what that means, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name, which stays the same in all releases: `postgres.fsync`.
    pub check: &'static str,
    pub severity: Severity,
    pub found: String,
    pub means: &'static str,
    pub mend: String,
}

/// A check of facts.
pub(super) struct Check<F> {
    pub name: &'static str,
    pub judge: fn(&F) -> Option<Fault>,
}

/// What a check says: a finding without the check's name.
pub(super) struct Fault {
    severity: Severity,
    found: String,
    means: &'static str,
    mend: String,
}

pub(super) fn error(
    found: impl Into<String>,
    means: &'static str,
    mend: impl Into<String>,
) -> Fault {
    Fault { severity: Severity::Error, found: found.into(), means, mend: mend.into() }
}

pub(super) fn warning(
    found: impl Into<String>,
    means: &'static str,
    mend: impl Into<String>,
) -> Fault {
    Fault { severity: Severity::Warning, found: found.into(), means, mend: mend.into() }
}

impl Fault {
    #[cfg(test)]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// The names of a table of checks.
pub(super) fn names<F>(checks: &[Check<F>]) -> Vec<&'static str> {
    checks.iter().map(|check| check.name).collect()
}

/// What was looked at and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Whether any server could be looked at.
    pub looked: bool,
    /// How many checks were made.
    pub made: usize,
    /// The checks that could not be made, and why.
    pub not_made: Vec<(&'static str, String)>,
    pub findings: Vec<Finding>,
}

impl Report {
    /// Makes all checks of a table, or notes why that cannot be done.
    pub(super) fn judge<F>(&mut self, checks: &[Check<F>], facts: Result<&F, &str>) {
        match facts {
            Ok(facts) => {
                self.made += checks.len();
                for Check { name, judge } in checks {
                    let fault = judge(facts);
                    self.findings.extend(fault.map(|Fault { severity, found, means, mend }| {
                        Finding { check: name, severity, found, means, mend }
                    }));
                }
            }
            Err(reason) => {
                let names = checks.iter().map(|check| (check.name, reason.to_owned()));
                self.not_made.extend(names);
            }
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Nothing was found, and nothing was left out.
    pub fn is_healthy(&self) -> bool {
        self.findings.is_empty() && self.not_made.is_empty()
    }

    /// 0: no errors (and no warnings, if `strict`); 1: there are; 2: no server could be looked at.
    pub fn exit_code(&self, strict: bool) -> u8 {
        let wrong = self.count(Severity::Error) > 0
            || !self.not_made.is_empty()
            || (strict && !self.findings.is_empty());
        match (self.looked, wrong) {
            (false, _) => 2,
            (true, wrong) => u8::from(wrong),
        }
    }

    /// For people: one line where all is well.
    pub fn text(&self) -> String {
        if self.is_healthy() {
            return format!("healthy: {} checks\n", self.made);
        }
        let mut text = String::new();
        for Finding { check, severity, found, means, mend } in &self.findings {
            let severity = match severity {
                Severity::Error => "ERROR  ",
                Severity::Warning => "WARNING",
            };
            let mend = mend.replace('\n', "\n                 ");
            let _ = writeln!(text, "{severity} {check}: {found}");
            let _ = writeln!(text, "          means: {means}");
            let _ = writeln!(text, "          mend:  {mend}");
        }
        let mut rest = self.not_made.as_slice();
        while let Some((_, reason)) = rest.first() {
            let alike = rest.iter().take_while(|(_, why)| why == reason).count();
            let _ = writeln!(text, "not made: {}, because {reason}", count(alike, "check"));
            rest = &rest[alike..];
        }
        let _ = writeln!(
            text,
            "{}, {}, {}",
            count(self.made, "check"),
            count(self.count(Severity::Error), "error"),
            count(self.count(Severity::Warning), "warning")
        );
        text
    }

    /// The same for machines.
    pub fn json(&self) -> String {
        let not_made = self.not_made.iter();
        let document = json!({
            "healthy": self.is_healthy(),
            "looked": self.looked,
            "checks": self.made,
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "findings": self.findings,
            "notMade": not_made
                .map(|(check, reason)| json!({ "check": check, "reason": reason }))
                .collect::<Vec<_>>(),
        });
        format!("{document:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[Check<(bool, bool)>] = &[
        Check { name: "a.error", judge: |f| f.0.then(|| error("it is off", "data is lost", "on")) },
        Check { name: "a.hint", judge: |f| f.1.then(|| warning("it is old", "slow", "renew\nit")) },
    ];

    fn report(error: bool, warning: bool) -> Report {
        let mut report = Report { looked: true, ..Report::default() };
        report.judge(BOTH, Ok(&(error, warning)));
        report
    }

    #[test]
    fn the_exit_code_tells_how_bad_it_is() {
        let codes = |report: &Report| (report.exit_code(false), report.exit_code(true));
        assert_eq!(codes(&report(false, false)), (0, 0));
        assert_eq!(codes(&report(false, true)), (0, 1));
        assert_eq!(codes(&report(true, false)), (1, 1));
        assert_eq!(codes(&Report { looked: false, ..report(true, true) }), (2, 2));
        let mut blind = report(false, false);
        blind.judge(BOTH, Err("the server is silent"));
        assert_eq!(codes(&blind), (1, 1));
    }

    #[test]
    fn a_sound_system_is_one_line_and_a_finding_says_what_mends_it() {
        assert_eq!(report(false, false).text(), "healthy: 2 checks\n");
        assert_eq!(
            report(true, true).text(),
            "ERROR   a.error: it is off\n          means: data is lost\n          mend:  on\n\
             WARNING a.hint: it is old\n          means: slow\n          mend:  renew\n                 it\n\
             2 checks, 1 error, 1 warning\n"
        );
        let document: serde_json::Value =
            serde_json::from_str(&report(true, false).json()).unwrap();
        assert_eq!(document["findings"][0]["check"], "a.error");
        assert_eq!(document["findings"][0]["severity"], "error");
        assert_eq!(document["healthy"], false);
    }
}
