//! What the demo plays on: a throwaway Postgres with the app store's tables, and a directory with `walcast.toml`,
//! `schema.json` and the replicas. Both go away with the [`Stage`], unless the directory is to be kept.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::cluster::Cluster;
use super::replica::Address;
use super::session::Session;
use super::store;
use crate::error::{Error, Result};

/// The regions, in the order in which they are used.
const REGIONS: [&str; 6] = ["na", "eu", "asia", "sa", "oc", "af"];
/// How many regions there can be.
pub(super) const REGIONS_MAX: u16 = REGIONS.len() as u16;

/// Source and directory.
pub(super) struct Stage {
    directory: TempDir,
    cluster: Cluster,
    regions: &'static [&'static str],
}

impl Stage {
    /// Starts Postgres, creates the tables and writes the files. Blocks for about a second.
    pub(super) fn set(regions: u16) -> Result<Self> {
        // Without autovacuum, whose transactions Postgres 14 puts into the stream, empty as they are: the number of
        // transactions could not be compared.
        let cluster = Cluster::builder().setting("autovacuum", "off").start()?;
        let cannot = |error| Error::halt("cannot write the demo's directory").because(error);
        let directory = tempfile::Builder::new().prefix("walcast-demo-").tempdir().map_err(cannot)?;
        let regions = &REGIONS[..usize::from(regions)];
        let stage = Stage { directory, cluster, regions };
        Session::connect(&stage.url())?.execute(store::CREATE)?;
        std::fs::write(stage.path().join("schema.json"), store::schema_json()).map_err(cannot)?;
        std::fs::write(stage.path().join("walcast.toml"), stage.configuration()).map_err(cannot)?;
        Ok(stage)
    }

    /// The URL of the source.
    pub(super) fn url(&self) -> String {
        self.cluster.url()
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The regions' names.
    pub(super) fn regions(&self) -> &'static [&'static str] {
        self.regions
    }

    /// The regions' replicas, in the order of their names.
    pub(super) fn replicas(&self) -> Vec<Address> {
        self.regions.iter().map(|region| Address::File(self.path().join(format!("{region}.db")))).collect()
    }

    /// Leaves the directory where it is, and returns it. Postgres goes all the same.
    pub(super) fn keep(self) -> PathBuf {
        let Stage { directory, cluster, .. } = self;
        drop(cluster);
        directory.keep()
    }

    fn configuration(&self) -> String {
        let mut toml = format!(
            "schema = \"schema.json\"\n\n\
             [source]\n\
             url = \"{}\"\n\
             # Shorter than usual, to look at positions ten times a second.\n\
             status_interval = \"100ms\"\n\
             idle_checkpoint_interval = \"200ms\"\n",
            self.url()
        );
        for region in self.regions {
            let _ =
                write!(toml, "\n[[sink]]\nname = \"{region}\"\ntype = \"sqlite\"\npath = \"{region}.db\"\n");
        }
        toml
    }
}
