//! What an engine would be made of: the configuration and `schema.json`, checked against the source. Nothing is touched.

use std::sync::Arc;

use tokio_postgres::Client;

use crate::app::d1::Transports;
use crate::app::sinks::AnySink;
use crate::app::source::{Source, Survey};
use crate::capture::slot::SourceIdentity;
use crate::config::Config;
use crate::encode::plan::{Plan, PlannedTable};
use crate::encode::schema_file::SchemaFile;
use crate::error::{Error, Result};

/// A configuration that an engine can be made of, as far as that can be told without making it.
pub struct Blueprint {
    pub(super) source: Source,
    pub(super) client: Client,
    pub(super) survey: Survey,
    pub(super) plan: Arc<Plan>,
    /// By table: whether rows from before the stream are wanted.
    pub(super) wanted: Vec<bool>,
}

impl Blueprint {
    /// Asks the source, and draws the plan.
    ///
    /// # Errors
    /// Transient while the source cannot be reached; otherwise what an operator has to resolve.
    pub async fn draw(config: &Config, schema: &SchemaFile) -> Result<Blueprint> {
        let source = Source::new(&config.source)?;
        let client = source.connect().await?;
        let survey = Survey::read(&client, schema).await?;
        let plan = Arc::new(Plan::new(schema, &survey.tables)?);
        let wanted = wanted(config, &plan)?;
        Ok(Blueprint { source, client, survey, plan, wanted })
    }

    /// Refuses sinks whose addresses are none; a start would go on without them.
    ///
    /// # Errors
    /// A configuration error.
    pub fn check_sinks(config: &Config) -> Result<()> {
        let transports = Transports::new(config);
        let mut sinks = config.sinks.iter();
        sinks.try_for_each(|sink| AnySink::new(sink, config.schema_changes, &transports).map(drop))
    }

    /// Which source it is about.
    pub fn identity(&self) -> SourceIdentity {
        self.source.identity(&self.survey.server)
    }

    /// What would be replicated.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// By table: whether rows from before the stream are wanted.
fn wanted(config: &Config, plan: &Plan) -> Result<Vec<bool>> {
    let names = |table: &PlannedTable| [table.source.plain(), table.source.to_string()];
    for name in config.backfill.tables.keys() {
        if !plan.tables.iter().any(|table| names(table).contains(name)) {
            return Err(Error::config(format!("backfill.tables names {name}, which schema.json does not"))
                .hint("write the table's name as schema.json does, or take the line out"));
        }
    }
    let is_wanted = |table: &PlannedTable| {
        let [plain, quoted] = names(table);
        config.backfill.is_wanted([&plain, &quoted])
    };
    Ok(plan.tables.iter().map(is_wanted).collect())
}
