//! Which traces are sent, and where to: the standard settings of OpenTelemetry, checked here
//! because its SDK would pass over a mistake.

use clap::Args;

use super::check::url;

/// The settings of traces. The comments are the `--help` text.
#[derive(Args, Clone, Debug)]
pub struct TraceSettings {
    /// Where to send traces by OTLP over HTTP, such as http://127.0.0.1:4318. Empty: nowhere
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        default_value = "",
        hide_default_value = true
    )]
    pub otlp_endpoint: String,

    /// Which requests are traced: always_on, always_off or traceidratio; after parentbased_ the
    /// same for those that bring no trace context, and what the caller says for the others
    #[arg(long, env = "OTEL_TRACES_SAMPLER", default_value = "parentbased_always_on")]
    pub otel_traces_sampler: String,

    /// The share of requests that traceidratio traces, 0 to 1
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value = "1")]
    pub otel_traces_sampler_arg: String,
}

/// Where traces go, and which.
#[derive(Clone, Debug)]
pub struct Traces {
    pub endpoint: String,
    pub sampling: Sampling,
}

/// Which requests are traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// A caller that brings a trace context says so itself.
    pub heeds_caller: bool,
    /// The share of the others.
    pub share: f64,
}

impl TraceSettings {
    /// None where traces go nowhere.
    pub(super) fn check(&self, errors: &mut Vec<String>) -> Option<Traces> {
        let sampling = self.sampling(errors);
        let given = (!self.otlp_endpoint.is_empty()).then_some(&self.otlp_endpoint)?;
        let endpoint = url("OTEL_EXPORTER_OTLP_ENDPOINT", given, &["http", "https"], errors);
        Some(Traces { endpoint, sampling })
    }

    fn sampling(&self, errors: &mut Vec<String>) -> Sampling {
        let share = match self.otel_traces_sampler_arg.as_str() {
            "" => Some(1.0),
            given => given.parse().ok().filter(|share| (0.0..=1.0).contains(share)),
        };
        if share.is_none() {
            let given = &self.otel_traces_sampler_arg;
            errors.push(format!("OTEL_TRACES_SAMPLER_ARG is {given:?}; it must be from 0 to 1"));
        }
        let given = self.otel_traces_sampler.as_str();
        let of_caller = given.strip_prefix("parentbased_");
        let share = match of_caller.unwrap_or(given) {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => share.unwrap_or(1.0),
            "" if of_caller.is_none() => return Sampling { heeds_caller: true, share: 1.0 },
            _ => {
                errors.push(format!(
                    "OTEL_TRACES_SAMPLER is {given:?}; it must be always_on, always_off or \
                     traceidratio, or one of them after parentbased_"
                ));
                1.0
            }
        };
        Sampling { heeds_caller: of_caller.is_some(), share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(sampler: &str, arg: &str) -> Result<Sampling, Vec<String>> {
        let settings = TraceSettings {
            otlp_endpoint: "http://here:4318".to_owned(),
            otel_traces_sampler: sampler.to_owned(),
            otel_traces_sampler_arg: arg.to_owned(),
        };
        let mut errors = Vec::new();
        let traces = settings.check(&mut errors);
        if errors.is_empty() { Ok(traces.unwrap().sampling) } else { Err(errors) }
    }

    #[test]
    fn every_sampler_of_the_standard_is_known() {
        for (sampler, arg, heeds_caller, share) in [
            ("parentbased_always_on", "1", true, 1.0),
            ("parentbased_always_off", "", true, 0.0),
            ("parentbased_traceidratio", "0.25", true, 0.25),
            ("always_on", "", false, 1.0),
            ("always_off", "0.5", false, 0.0),
            ("traceidratio", "0", false, 0.0),
            ("", "", true, 1.0),
        ] {
            assert_eq!(checked(sampler, arg), Ok(Sampling { heeds_caller, share }), "{sampler}");
        }
    }

    #[test]
    fn a_mistake_is_said_by_its_name() {
        for (sampler, arg, name) in [
            ("xray", "1", "OTEL_TRACES_SAMPLER is"),
            ("parentbased_", "1", "OTEL_TRACES_SAMPLER is"),
            ("traceidratio", "half", "OTEL_TRACES_SAMPLER_ARG is"),
            ("always_on", "NaN", "OTEL_TRACES_SAMPLER_ARG is"),
            ("parentbased_traceidratio", "25", "OTEL_TRACES_SAMPLER_ARG is"),
        ] {
            let errors = checked(sampler, arg).unwrap_err();
            assert!(errors.len() == 1 && errors[0].starts_with(name), "{errors:?}");
        }
    }
}
