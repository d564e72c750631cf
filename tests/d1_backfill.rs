//! Rows from before the stream in D1 databases on a real workerd, through REST and through the companion Worker.

#[path = "support/filling.rs"]
mod filling;
#[path = "support/pipeline.rs"]
mod pipeline;

use std::process::{Command, Stdio};

use filling::{ROWS, SMALL, TABLES, assert_equal, schema, under_load};
use pipeline::Pipeline;

const SINKS: [&str; 2] = ["rest", "worker"];

fn build() -> Pipeline {
    let builder = Pipeline::builder().d1("rest", "").d1_worker("worker", "");
    let budget = "[d1]\nrequests_per_5_minutes = 100000\n";
    builder.sections(&format!("{SMALL}{budget}")).build(&format!("{TABLES}{ROWS}"), &schema())
}

#[test]
fn databases_are_filled_while_rows_change_and_the_engine_is_killed() {
    let mut pipeline = build();
    under_load(&mut pipeline, |pipeline| {
        let mut begun = 0;
        for _ in 0..3 {
            pipeline.start();
            pipeline.eventually("a chunk", || {
                let fills = pipeline.replica("rest").fills();
                let rows = fills.values().filter_map(|fill| fill["rows"].as_u64()).sum::<u64>();
                (rows > begun).then(|| begun = rows)
            });
            pipeline.kill();
        }
        pipeline.start();
        SINKS.into_iter().for_each(|sink| pipeline.filled(sink));
    });
    pipeline.catch_up();
    assert_equal(&pipeline);
    for sink in SINKS {
        assert_eq!(pipeline.replica(sink).dead_letters(), [""; 0]);
    }
    assert_eq!(pipeline.stop(), Some(0));
    assert_eq!(pipeline.broken_limits(), [""; 0]);
}

#[test]
fn a_database_that_lost_rows_or_a_table_is_healed_and_one_that_is_nuked_is_filled() {
    let mut pipeline = build();
    pipeline.start();
    SINKS.into_iter().for_each(|sink| pipeline.filled(sink));
    // Somebody else has been at them.
    for sink in SINKS {
        pipeline.d1_rows(sink, "DELETE FROM items WHERE id BETWEEN 10 AND 20");
    }
    pipeline.exec("UPDATE items SET v = 'missed' WHERE id BETWEEN 10 AND 12");
    pipeline.exec("UPDATE items SET id = 50000 WHERE id = 20");
    pipeline.catch_up();
    let some = "SELECT id, v, substr(note, 1, 9) FROM items WHERE id IN (10, 11, 12, 50000) ORDER BY id";
    let expected = pipeline.exec(some);
    for sink in SINKS {
        pipeline
            .eventually("the missing rows", || (pipeline.replica(sink).rows(some) == expected).then_some(()));
        pipeline.filled(sink);
    }
    pipeline.assert_log(&["updates found no row in this sink"]);
    assert_eq!(pipeline.stop(), Some(0));

    pipeline.d1_rows("rest", "DROP TABLE pairs");
    let nuke = Command::new(env!("CARGO_BIN_EXE_walcast"))
        .args(["nuke", "--table", "items", "--yes", "--json"])
        .env_clear()
        .current_dir(pipeline.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(nuke.status.success(), "{}", String::from_utf8_lossy(&nuke.stderr));
    assert_equal(&pipeline);
    for sink in SINKS {
        assert_eq!(pipeline.replica(sink).dead_letters(), [""; 0], "they went with the table");
    }
    assert_eq!(pipeline.broken_limits(), [""; 0]);
}
