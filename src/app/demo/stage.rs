//! What the demo plays on: a throwaway Postgres with the app store's tables, a directory with `walcast.toml`,
//! `schema.json` and the replicas, and instead of those a workerd with D1 databases, if that is asked for. All go away
//! with the [`Stage`], unless the directory is to be kept.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::cluster::Cluster;
use super::replica::Address;
use super::session::Session;
use super::store;
use super::workerd::Workerd;
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
    d1: Option<D1>,
}

/// D1 databases.
struct D1 {
    workerd: Workerd,
    /// By region.
    ids: Vec<String>,
}

impl D1 {
    fn start(regions: &[&str]) -> Result<Self> {
        let workerd = Workerd::start()?;
        let ids = regions.iter().map(|region| workerd.create_database(region)).collect::<Result<_>>()?;
        Ok(D1 { workerd, ids })
    }

    fn sink(&self, index: usize) -> String {
        let (account, token) = (Workerd::ACCOUNT, Workerd::TOKEN);
        let (database, base_url) = (&self.ids[index], self.workerd.base_url());
        format!(
            "type = \"d1\"\naccount_id = \"{account}\"\ndatabase = \"{database}\"\n\
             api_token = \"{token}\"\nbase_url = \"{base_url}\"\n"
        )
    }

    fn address(&self, index: usize, region: &str) -> Address {
        let (account, database) = (Workerd::ACCOUNT, &self.ids[index]);
        let url = format!("{}/accounts/{account}/d1/database/{database}/raw", self.workerd.base_url());
        Address::Database { name: region.to_owned(), url }
    }
}

impl Stage {
    /// Starts Postgres, creates the tables and writes the files. Blocks for about a second.
    pub(super) fn set(regions: u16, is_d1: bool) -> Result<Self> {
        // Without autovacuum, whose transactions Postgres 14 puts into the stream, empty as they are: the number of
        // transactions could not be compared.
        let cluster = Cluster::builder().setting("autovacuum", "off").start()?;
        let cannot = |error| Error::halt("cannot write the demo's directory").because(error);
        let directory = tempfile::Builder::new().prefix("walcast-demo-").tempdir().map_err(cannot)?;
        let regions = &REGIONS[..usize::from(regions)];
        let d1 = is_d1.then(|| D1::start(regions)).transpose()?;
        let stage = Stage { directory, cluster, regions, d1 };
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
        let address = |(index, region): (usize, &&str)| match &self.d1 {
            Some(d1) => d1.address(index, region),
            None => Address::File(self.path().join(format!("{region}.db"))),
        };
        self.regions.iter().enumerate().map(address).collect()
    }

    /// How many requests were beyond D1's documented limits; `None` without D1.
    pub(super) fn violations(&self) -> Result<Option<u64>> {
        self.d1.as_ref().map(|d1| d1.workerd.violations()).transpose()
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
        if self.d1.is_some() {
            // Nobody counts requests here. With Cloudflare's own limit a region had one in 1.5 seconds.
            toml.push_str("\n[d1]\nrequests_per_5_minutes = 100000\n");
        }
        for (index, region) in self.regions.iter().enumerate() {
            let sink = match &self.d1 {
                Some(d1) => d1.sink(index),
                None => format!("type = \"sqlite\"\npath = \"{region}.db\"\n"),
            };
            let _ = write!(toml, "\n[[sink]]\nname = \"{region}\"\n{sink}");
        }
        toml
    }
}
