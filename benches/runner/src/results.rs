//! What was measured, and the files that it is kept in.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use harness::Result;
use harness::report::Load;
use harness::work::Workload;
use serde::{Deserialize, Serialize};

use crate::machine::Circumstances;
use crate::{chart, markdown};

/// Everything that was measured. Parts that were not measured again stay as they were.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) throughput: Option<Section<Throughput>>,
    pub(crate) allocations: Option<Section<PerCall>>,
    pub(crate) wire: Option<Section<PerCall>>,
    pub(crate) memory: Option<Section<Memory>>,
    pub(crate) instructions: Option<Section<PerCall>>,
}

/// What was measured in one go.
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
    /// Others took too much of the machine, each time that it was tried.
    pub(crate) disturbed: bool,
    /// How often it was tried again.
    pub(crate) repeated: u32,
    #[serde(flatten)]
    pub(crate) load: Load,
}

/// Something that was counted for each call, at both ends.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PerCall {
    pub(crate) contestant: String,
    pub(crate) workload: Workload,
    pub(crate) callers: usize,
    /// At the client, or from there.
    pub(crate) client: f64,
    /// At the server, or from there.
    pub(crate) server: f64,
}

/// Memory of a server.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Memory {
    pub(crate) contestant: String,
    pub(crate) connections: usize,
    /// For each connection.
    pub(crate) bytes: f64,
}

impl<Row> Section<Row> {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        Self { circumstances: Circumstances::now(), rows }
    }
}

impl Results {
    /// The results that are in `folder`; none if there are none.
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
