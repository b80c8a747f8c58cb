//! The results and their files.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use harness::Result;
use harness::report::Load;
use harness::work::Workload;
use serde::{Deserialize, Serialize};

use crate::machine::Circumstances;
use crate::{chart, markdown};

/// All results. Parts that are not measured again are kept.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) throughput: Option<Section<Throughput>>,
    pub(crate) allocations: Option<Section<PerCall>>,
    pub(crate) wire: Option<Section<PerCall>>,
    pub(crate) memory: Option<Section<Memory>>,
    pub(crate) instructions: Option<Section<PerCall>>,
}

/// The results of one part of a run.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Section<Row> {
    pub(crate) circumstances: Circumstances,
    pub(crate) rows: Vec<Row>,
}

/// One run of one contestant.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Throughput {
    pub(crate) setting: String,
    pub(crate) contestant: String,
    pub(crate) round: u32,
    /// Other processes used too much of the machine in each attempt.
    pub(crate) disturbed: bool,
    /// The number of repetitions.
    pub(crate) repeated: u32,
    #[serde(flatten)]
    pub(crate) load: Load,
}

/// A count per call, at both ends.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PerCall {
    pub(crate) contestant: String,
    pub(crate) workload: Workload,
    pub(crate) callers: usize,
    /// At the client, or sent by it.
    pub(crate) client: f64,
    /// At the server, or sent by it.
    pub(crate) server: f64,
}

/// Memory of a server.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Memory {
    pub(crate) contestant: String,
    pub(crate) connections: usize,
    /// Per connection.
    pub(crate) bytes: f64,
}

impl<Row> Section<Row> {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        Self { circumstances: Circumstances::now(), rows }
    }
}

impl Results {
    /// Reads the results in `folder`; empty if there are none.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        match fs::read_to_string(folder.join("results.json")) {
            Ok(text) => Ok(serde_json::from_str(&text)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes all files.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(folder.join("results.md"), markdown::render(self))?;
        if let Some(throughput) = &self.throughput {
            fs::write(folder.join("results.svg"), chart::render(&throughput.rows))?;
        }
        Ok(())
    }
}
