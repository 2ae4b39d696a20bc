//! The report of `bench esp`, as JSON and as a table.
//!
//! ```text
//!                              64 B                          512 B
//!                       seal          open            seal          open
//!   suite            Gbit/s   c/B  Gbit/s   c/B    Gbit/s   c/B  Gbit/s   c/B
//! ```

use std::fmt;

use serde::Serialize;

use crate::bench::machine::MachineInfo;

/// Lengths of inner packets in bytes: an acknowledgment, a medium packet, and the longest that passes every cloud.
pub const SIZES: [usize; 3] = [64, 512, 1408];

/// The result of `bench esp`. Its serialized form is `bench esp --json`, with stable keys.
#[derive(Debug, Serialize)]
pub struct EspReport {
    /// Machine of the benchmark.
    pub machine: MachineInfo,
    /// Kernel for AES-CBC and HMAC in SIMD lanes.
    pub lanes: String,
    /// Available kernels, slowest first.
    pub lanes_available: Vec<String>,
    /// Relevant CPU features.
    pub cpu_features: Vec<CpuFeature>,
    /// Frequency of the time stamp counter, if there is one: the unit of `cycles_per_byte`.
    pub tsc_ghz: Option<f64>,
    /// Packets per batch.
    pub batch: usize,
    /// Measuring time in seconds for each suite and packet size.
    pub seconds: f64,
    /// One row for each suite and packet size.
    pub results: Vec<EspRow>,
}

/// An instruction set extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CpuFeature {
    /// Name in /proc/cpuinfo.
    pub name: &'static str,
    /// Whether the CPU has the feature.
    pub found: bool,
}

/// The result of one suite and packet size.
#[derive(Debug, Clone, Serialize)]
pub struct EspRow {
    /// Algorithms.
    pub suite: String,
    /// Timed part of the work.
    pub through: Measured,
    /// Length of the inner packet in bytes.
    pub size: usize,
    /// Sealing.
    pub seal: EspSpeed,
    /// Opening.
    pub open: EspSpeed,
}

/// Timed part of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Measured {
    /// All work of an SA.
    Esp,
    /// Only cipher and ICV, in SIMD lanes.
    Lanes,
}

impl Measured {
    /// Keyword in the report.
    pub fn word(self) -> &'static str {
        match self {
            Measured::Esp => "esp",
            Measured::Lanes => "lanes",
        }
    }
}

/// Speed of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EspSpeed {
    /// Gbit/s of inner packets.
    pub gbit: f64,
    /// Ticks of the time stamp counter per byte of an inner packet.
    pub cycles_per_byte: Option<f64>,
}

impl fmt::Display for EspReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        self.explain(f)?;
        writeln!(f)?;
        let sizes = SIZES.map(|size| format!("{:^29}", format!("{size} B")));
        writeln!(f, "{:<NAME$}{}", "", sizes.join("  "))?;
        let directions = SIZES.map(|_| format!("{:^14} {:^14}", "seal", "open"));
        writeln!(f, "{:<NAME$}{}", "", directions.join("  "))?;
        let heads =
            SIZES.map(|_| format!("{:>7}{:>7} {:>7}{:>7}", "Gbit/s", "c/B", "Gbit/s", "c/B"));
        writeln!(f, "{:<NAME$}{}", "suite", heads.join("  "))?;
        for row in self.results.iter().filter(|row| row.size == SIZES[0]) {
            let name = match row.through {
                Measured::Esp => row.suite.clone(),
                Measured::Lanes => "  lanes only".to_owned(),
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
                "none".to_owned()
            } else {
                names.join(" ")
            }
        };
        writeln!(
            f,
            "CPU features   {}; missing: {}",
            names(true),
            names(false)
        )?;
        writeln!(f, "AEADs          ring, which selects its own kernel")?;
        writeln!(
            f,
            "measurement    one core, {} packets per batch, {} s per row and size; sizes of inner packets",
            self.batch, self.seconds
        )?;
        match self.tsc_ghz {
            Some(ghz) => writeln!(
                f,
                "c/B            cycles per byte, of a time stamp counter of {ghz:.3} GHz"
            ),
            None => writeln!(f, "c/B            unknown: this CPU has no cycle counter"),
        }
    }

    /// Both directions of one size, in the row of `first`.
    fn cell(&self, first: &EspRow, size: usize) -> String {
        let in_row = |row: &&EspRow| {
            row.size == size && row.suite == first.suite && row.through == first.through
        };
        let Some(row) = self.results.iter().find(in_row) else {
            return String::new();
        };
        let speed = |speed: EspSpeed| {
            let cycles = speed
                .cycles_per_byte
                .map_or_else(|| "-".to_owned(), |cycles| format!("{cycles:.2}"));
            format!("{:>7.2} {cycles:>6}", speed.gbit)
        };
        format!("{} {}", speed(row.seal), speed(row.open))
    }
}
