//! The text exposition format of Prometheus, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Knows no metric.

use std::fmt::Write;

/// A page in the making. Metrics of one name stand together.
#[derive(Debug, Default)]
pub struct Page(String);

/// Names and values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// What the page is, for the one who asks.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Page {
    /// Begins the metrics of one name: `kind` is `counter`, `gauge` or `histogram`.
    pub fn begin(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    /// One number.
    pub fn number(&mut self, name: &str, labels: Labels<'_>, value: impl std::fmt::Display) {
        let labels = written(labels, None);
        self.line(format_args!("{name}{labels} {value}"));
    }

    /// One histogram: `buckets` beside `bounds` and one more, each with what it alone holds; bounds and `sum` are
    /// microseconds.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: Labels<'_>,
        bounds: &[u64],
        buckets: &[u64],
        sum: u64,
    ) {
        let mut so_far = 0;
        let bounds = bounds.iter().map(|&bound| seconds(bound));
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(buckets) {
            so_far += count;
            let labels = written(labels, Some(("le", &bound)));
            self.line(format_args!("{name}_bucket{labels} {so_far}"));
        }
        let (labels, sum) = (written(labels, None), seconds(sum));
        self.line(format_args!(
            "{name}_sum{labels} {sum}\n{name}_count{labels} {so_far}"
        ));
    }

    pub fn text(self) -> String {
        self.0
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = writeln!(self.0, "{line}");
    }
}

fn written(labels: Labels<'_>, more: Option<(&str, &str)>) -> String {
    let pairs = labels.iter().copied().chain(more);
    let pairs = pairs.map(|(name, value)| {
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    });
    let pairs: Vec<String> = pairs.collect();
    match pairs.is_empty() {
        true => String::new(),
        false => format!("{{{}}}", pairs.join(",")),
    }
}

/// Microseconds as seconds, to the last digit.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_as_the_format_has_it() {
        let mut page = Page::default();
        page.begin("a_total", "counter", "How many.");
        page.number("a_total", &[("project", "a\"b\\c\nd")], 7);
        page.number("a_total", &[], 1.5);
        page.begin("b_seconds", "histogram", "How long.");
        page.histogram(
            "b_seconds",
            &[("x", "y")],
            &[500, 1_000_000],
            &[2, 0, 1],
            20_000_001,
        );
        let expected = r#"# HELP a_total How many.
# TYPE a_total counter
a_total{project="a\"b\\c\nd"} 7
a_total 1.5
# HELP b_seconds How long.
# TYPE b_seconds histogram
b_seconds_bucket{x="y",le="0.0005"} 2
b_seconds_bucket{x="y",le="1"} 2
b_seconds_bucket{x="y",le="+Inf"} 3
b_seconds_sum{x="y"} 20.000001
b_seconds_count{x="y"} 3
"#;
        assert_eq!(page.text(), expected);
    }
}
