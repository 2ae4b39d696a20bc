//! The report as a self-contained HTML page: its plots are inline SVG, and it loads no resources and runs no scripts.

use std::fmt::Write as _;

use super::pair::System;
use super::report::{IMIX, Metric, SystemRun, TunnelReport, metrics};
use super::svg::{Bar, LossCurve, bars, curves, escape};
use super::udp_rate::{FULL, MAX_LOSS, MIXES};

impl TunnelReport {
    /// The page.
    pub fn to_html(&self) -> String {
        let machine = escape(&self.machine.to_string()).replace('\n', "<br>");
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>groundlink bench tunnel</title>\n<style>{STYLE}</style></head><body>\n\
             <h1>groundlink <small>bench tunnel</small></h1>\n\
             <p>{machine}<br>IKE {}, {} s of TCP, ESP {}</p>\n{PATH}\n",
            escape(&self.ike),
            self.seconds,
            escape(&self.suites().join(", ")),
        );
        for run in &self.runs {
            for problem in &run.problems {
                let (system, esp) = (run.system, escape(&run.esp));
                let _ = writeln!(
                    page,
                    "<p class=\"problem\">Not measured: {system}, {esp}: {}</p>",
                    escape(problem)
                );
            }
        }
        page += "<h2>Throughput</h2>\n<p>Longer is better.</p>\n";
        page += &self.bars("TCP, one stream", Metric::TcpOneStream);
        page += &self.bars("TCP, four streams", Metric::TcpFourStreams);
        let _ = writeln!(
            page,
            "<p>UDP: the highest rate with less than 0.5 % loss (kpps: thousand packets per second). Each datagram is sent in its own \
             packet; {IMIX}.</p>",
        );
        let udp = || MIXES.map(|mix| (format!("UDP {}", mix.name), Metric::Udp(mix)));
        let ingress = format!("Ingress {}", FULL.name);
        for (title, metric) in udp() {
            page += &self.bars(&title, metric);
        }
        page += "<p>Ingress: the same with a peer in place of gateway A that only seals and sends: ESP in UDP with checksum zero, \
                 like kernels and clouds. The kernel of gateway B coalesces none of these packets.</p>\n";
        page += &self.bars(&ingress, Metric::Ingress);
        page += "<h2>Cost</h2>\n<p>Shorter is better.</p>\n";
        page += &self.bars("Round trip, mean", Metric::RoundTrip);
        let cpu = "CPU time of both gateways per gigabit of one TCP stream";
        page += &self.bars(cpu, Metric::Cpu);
        page += &self.bars("Resident memory of the larger gateway", Metric::Memory);
        page += &self.steps();
        page += "<h2>Loss</h2>\n<p>All trials of the rate searches: packets per second (k: thousands) on the x axis, packet loss on the y axis. \
                 Trials below the red line pass.</p>\n";
        for (title, metric) in udp().into_iter().chain([(ingress, Metric::Ingress)]) {
            page += &self.loss(&title, metric);
        }
        page += &self.figures();
        page += &self.ratios();
        page + FOOT
    }

    fn suites(&self) -> Vec<&str> {
        let mut suites: Vec<&str> = self.runs.iter().map(|run| run.esp.as_str()).collect();
        suites.dedup();
        suites
    }

    fn bars(&self, title: &str, metric: Metric) -> String {
        let bar = |run: &SystemRun| Bar {
            label: label(run),
            value: metric.value(run),
            text: metric
                .text(run)
                .unwrap_or_else(|| "not measured".to_owned()),
            color: color(run.system),
        };
        let all: Vec<Bar> = self.runs.iter().map(bar).collect();
        bars(title, &all)
    }

    fn loss(&self, title: &str, metric: Metric) -> String {
        let suites = self.suites();
        let curve = |run: &SystemRun| {
            let trials = metric.udp(run)?.trials.iter();
            Some(LossCurve {
                label: label(run),
                points: trials.map(|trial| (trial.sent_pps, trial.loss())).collect(),
                color: color(run.system),
                dash: suites.iter().position(|esp| *esp == run.esp)?,
            })
        };
        let all: Vec<LossCurve> = self.runs.iter().filter_map(curve).collect();
        curves(title, &all, MAX_LOSS)
    }

    /// The table of datapath steps.
    fn steps(&self) -> String {
        let counted: Vec<_> = self
            .runs
            .iter()
            .filter_map(|run| Some((run.esp.clone(), run.ticks_per_byte?.in_order())))
            .collect();
        let Some((_, steps)) = counted.first() else {
            return String::new();
        };
        let head = steps.map(|(name, _)| name.to_owned());
        let rows = counted
            .iter()
            .map(|(esp, steps)| (esp.clone(), steps.map(|(_, ticks)| format!("{ticks:.2}"))));
        "<h2>Datapath steps</h2>\n<p>Cycles of the time stamp counter per byte of one TCP stream: read to send at gateway A, \
         receive to write at gateway B.</p>\n"
            .to_owned()
            + &table("ESP", head, rows)
    }

    /// The table of all figures.
    fn figures(&self) -> String {
        let head = self.runs.iter().map(label);
        let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let row = |metric: Metric| {
            let cells = self.runs.iter().map(move |run| cell(metric.text(run)));
            (metric.name(), cells)
        };
        "<h2>Figures</h2>\n".to_owned() + &table("", head, metrics().map(row))
    }

    /// The table of ratios, if two systems were compared.
    fn ratios(&self) -> String {
        if self.ratios.is_empty() {
            return String::new();
        }
        let cell = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
        let rows = self.ratios.iter().map(|ratios| {
            let cells = metrics().map(move |metric| cell(ratios.get(metric)));
            (ratios.esp.clone(), cells)
        });
        "<h2>Ratios</h2>\n<p>groundlink divided by strongSwan, in this run.</p>\n".to_owned()
            + &table("ESP", metrics().map(Metric::name), rows)
    }
}

/// A table with row names in the first column.
fn table<C: IntoIterator<Item = String>>(
    corner: &str,
    head: impl IntoIterator<Item = String>,
    rows: impl Iterator<Item = (String, C)>,
) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = String>| -> String {
        cells
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(&cell)))
            .collect()
    };
    let head = cells("th", &mut head.into_iter());
    let mut table = format!("<table><tr><th>{corner}</th>{head}</tr>\n");
    for (name, row) in rows {
        let row = cells("td", &mut row.into_iter());
        let _ = writeln!(table, "<tr><td>{}</td>{row}</tr>", escape(&name));
    }
    table + "</table>\n"
}

fn label(run: &SystemRun) -> String {
    format!("{} {}", run.system, run.esp)
}

fn color(system: System) -> usize {
    match system {
        System::Groundlink => 0,
        System::Strongswan => 1,
    }
}

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#667;--paper:#fff;--grid:#dde;--c0:#1769aa;--c1:#d9822b;--limit:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--paper:#14171b;--grid:#2c323a;--c0:#5aaaf0;--c1:#f0a860;--limit:#ff8a80}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:44rem;margin:2rem auto;padding:0 1rem}
h1 small{font-weight:400;color:var(--soft)}h2{margin-top:2.2rem}p{margin:.5rem 0}figure{margin:1.2rem 0}
figcaption{font-weight:600;margin-bottom:.2rem}svg{width:100%;height:auto;display:block}
svg text{font:12px system-ui,sans-serif;fill:var(--ink);dominant-baseline:middle}svg text.label{fill:var(--soft)}
.c0{fill:var(--c0)}.c1{fill:var(--c1)}.s0,.s1{fill:none;stroke-width:1.8}.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}
.d1{stroke-dasharray:6 3}.d2{stroke-dasharray:2 3}.d3{stroke-dasharray:9 3 2 3}
.grid{stroke:var(--grid)}.limit{stroke:var(--limit);stroke-dasharray:4 3}.box{fill:none;stroke:var(--soft)}.wire{stroke:var(--soft)}
.tunnel{stroke:var(--c0);stroke-width:4}table{display:block;overflow-x:auto;border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--grid)}td:first-child,th:first-child{text-align:left}
.problem{color:var(--limit)}footer{color:var(--soft);margin-top:2.5rem}";

/// Drawing of the packet path.
const PATH: &str = "<svg viewBox=\"0 0 640 56\" role=\"img\" aria-label=\"host A, gateway A, gateway B, host B in a row\">\
<line class=\"wire\" x1=\"110\" x2=\"150\" y1=\"28\" y2=\"28\"/><line class=\"tunnel\" x1=\"260\" x2=\"380\" y1=\"28\" y2=\"28\"/>\
<line class=\"wire\" x1=\"490\" x2=\"530\" y1=\"28\" y2=\"28\"/>\
<rect class=\"box\" x=\"1\" y=\"8\" width=\"109\" height=\"40\" rx=\"4\"/><rect class=\"box\" x=\"150\" y=\"8\" width=\"110\" height=\"40\" rx=\"4\"/>\
<rect class=\"box\" x=\"380\" y=\"8\" width=\"110\" height=\"40\" rx=\"4\"/><rect class=\"box\" x=\"530\" y=\"8\" width=\"109\" height=\"40\" rx=\"4\"/>\
<text x=\"55\" y=\"28\" text-anchor=\"middle\">host A</text><text x=\"205\" y=\"28\" text-anchor=\"middle\">gateway A</text>\
<text x=\"435\" y=\"28\" text-anchor=\"middle\">gateway B</text><text x=\"585\" y=\"28\" text-anchor=\"middle\">host B</text>\
<text class=\"label\" x=\"320\" y=\"14\" text-anchor=\"middle\">ESP in UDP</text></svg>\
<p>Sender, both gateways and receiver share the cores of this machine. Only ratios within one run are meaningful.</p>";

const FOOT: &str = "<footer>Generated by <code>groundlink bench tunnel --report</code>. docs/performance.md explains how to read it and how to repeat it.</footer>\n</body></html>\n";

#[cfg(test)]
mod tests {
    use super::super::report::testing::report;

    #[test]
    fn the_page_has_the_machine_the_suites_and_all_figures() {
        let report = report();
        let page = report.to_html();
        let machine = &report.machine;
        for part in [
            machine.version,
            &machine.kernel,
            &machine.date,
            "aes128-sha1-modp1024",
            "2.00 Gbit/s",
            "100.0 kpps",
            "UDP IMIX",
            "0.400 ms",
            "16.0 MiB",
            "<td>10.00</td>",
            "<td>2.00 Gbit/s</td>",
            "<th>seal</th>",
            "<td>1.50</td>",
        ] {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn the_page_loads_no_resources_and_runs_no_scripts() {
        let page = report().to_html();
        for word in [
            "<script", "http:", "https:", "src=", "href=", "url(", "@import",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert_eq!(page.matches("<figure>").count(), 10 + 5);
    }

    #[test]
    fn a_failed_measurement_is_marked() {
        let mut report = report();
        report.runs[0].rtt.avg_ms = None;
        report.runs[0].problems.push("<broken> ping".to_owned());
        let page = report.to_html();
        assert!(page.contains("not measured</text>") && page.contains("&lt;broken&gt; ping"));
    }
}
