//! Runs out of a stream, without an engine.

use std::sync::Arc;
use std::time::Duration;

use walcast::Lsn;
use walcast::app::river::{River, RiverOptions};
use walcast::capture::frame::FrameRun;
use walcast::encode::mapper::OlderForms;
use walcast::encode::plan::Plan;
use walcast::encode::run::Run;
use walcast::fanout::chain::chain;
use walcast::fanout::delivery::Delivery;
use walcast::fanout::outlets::Outlets;
use walcast::fanout::progress::SinkProgress;
use walcast::fanout::queue::Received;

/// The runs that a stream becomes.
pub fn runs(stream: &[u8], plan: &Arc<Plan>, part_bytes_max: usize) -> Vec<Arc<Run>> {
    let (outlets, _) = Outlets::new(Duration::MAX);
    let (outlet, inlet) = outlets.queue(&SinkProgress::new("eu"), usize::MAX);
    outlets.attach(outlet);
    let (inlets, mut chain) = chain();
    inlets.send(inlet).unwrap();
    let options = RiverOptions {
        part_bytes_max,
        idle_interval: Duration::ZERO,
        needed_from: Lsn::ZERO,
        older: OlderForms::default(),
    };
    let mut river = River::new(plan.clone(), Arc::new(outlets), options);
    river.flow(&FrameRun::new(stream.to_vec().into())).unwrap();
    let next = || match chain.try_receive() {
        Received::Item(delivery) => Some(delivery),
        Received::Empty | Received::Closed => None,
    };
    std::iter::from_fn(next)
        .filter_map(|delivery| match delivery {
            Delivery::Run(run) => Some(run),
            Delivery::Idle(_) | Delivery::Fill(_) | Delivery::Restart => None,
        })
        .collect()
}
