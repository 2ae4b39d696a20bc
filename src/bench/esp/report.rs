//! The table of `bench esp`.
//!
//! ```text
//!                              64 B                          512 B
//!                       seal          open            seal          open
//!   suite            Gbit/s   c/B  Gbit/s   c/B    Gbit/s   c/B  Gbit/s   c/B
//! ```

use std::fmt;

use super::{CpuFeature, EspReport, EspRow, EspSpeed, Measured, SIZES};

impl fmt::Display for EspReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        self.explain(f)?;
        writeln!(f)?;
        let sizes = SIZES.map(|size| format!("{:^29}", format!("{size} B")));
        writeln!(f, "{:<NAME$}{}", "", sizes.join("  "))?;
        let ways = SIZES.map(|_| format!("{:^14} {:^14}", "seal", "open"));
        writeln!(f, "{:<NAME$}{}", "", ways.join("  "))?;
        let heads =
            SIZES.map(|_| format!("{:>7}{:>7} {:>7}{:>7}", "Gbit/s", "c/B", "Gbit/s", "c/B"));
        writeln!(f, "{:<NAME$}{}", "suite", heads.join("  "))?;
        for row in self.results.iter().filter(|row| row.size == SIZES[0]) {
            let name = match row.through {
                Measured::Esp => row.suite.clone(),
                Measured::Lanes => "  lanes alone".to_owned(),
            };
            let cells = SIZES.map(|size| self.cell(row, size));
            writeln!(f, "{name:<NAME$}{}", cells.join("  "))?;
        }
        Ok(())
    }
}

/// Width of the first column.
const NAME: usize = 18;

impl EspReport {
    fn explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "CBC and HMAC   {}, the fastest of: {}",
            self.lanes,
            self.lanes_available.join(" · ")
        )?;
        let names = |wanted: bool| {
            let names: Vec<&str> = self
                .cpu_features
                .iter()
                .filter(|feature| feature.found == wanted)
                .map(|CpuFeature { name, .. }| *name)
                .collect();
            if names.is_empty() {
                "nothing asked for".to_owned()
            } else {
                names.join(" ")
            }
        };
        writeln!(f, "this CPU has   {}; lacks {}", names(true), names(false))?;
        writeln!(f, "AEADs          ring, which chooses by itself")?;
        writeln!(
            f,
            "measured       one core, {} packets a batch, {} s a row, bytes of inner packets",
            self.batch, self.seconds
        )?;
        match self.tsc_ghz {
            Some(ghz) => writeln!(
                f,
                "c/B            cycles a byte, of a time stamp counter of {ghz:.3} GHz"
            ),
            None => writeln!(
                f,
                "c/B            not known: this CPU has no counter of cycles"
            ),
        }
    }

    /// Both directions of one size in the line of `first`.
    fn cell(&self, first: &EspRow, size: usize) -> String {
        let of_line = |row: &&EspRow| {
            row.size == size && row.suite == first.suite && row.through == first.through
        };
        let Some(row) = self.results.iter().find(of_line) else {
            return String::new();
        };
        let speed = |speed: EspSpeed| {
            let cycles = speed
                .cycles_per_byte
                .map_or_else(|| "-".to_owned(), |cycles| format!("{cycles:.2}"));
            format!("{:>7.2}{cycles:>7}", speed.gbit)
        };
        format!("{} {}", speed(row.seal), speed(row.open))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{EspBenchOptions, run};

    #[test]
    fn a_line_a_suite_and_a_line_for_its_lanes() {
        let options = EspBenchOptions {
            suites: vec!["aes128-sha1".to_owned(), "aes128gcm16".to_owned()],
            time: Duration::from_millis(1),
        };
        let report = run(&options).unwrap();
        let text = report.to_string();
        let starting = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(starting("aes128-sha1 "), 1, "{text}");
        assert_eq!(starting("aes128gcm16 "), 1, "{text}");
        assert_eq!(starting("  lanes alone "), 1, "{text}");
        assert!(text.contains(&report.lanes) && text.contains("1408 B"));
        let line = text.lines().find(|line| line.starts_with("aes128gcm16"));
        assert_eq!(
            line.unwrap().split_whitespace().count(),
            1 + 3 * 4,
            "{text}"
        );
    }
}
