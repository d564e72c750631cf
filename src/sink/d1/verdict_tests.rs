//! The retry table row by row, each message as D1 sends it and as a binding does.

use super::*;

/// The verdict on an error of the database, as the REST API wraps it.
fn said(status: u16, message: &str) -> Verdict {
    let error = Some(ApiError { code: 7500, message: message.to_owned() });
    verdict(&Response { status: Some(status), error, retry_after: None })
}

fn coded(status: u16, code: u32) -> Verdict {
    let error = Some(ApiError { code, message: "whatever it says".to_owned() });
    verdict(&Response { status: Some(status), error, retry_after: None })
}

/// The verdict on an answer that is no envelope.
fn bare(status: u16) -> Verdict {
    verdict(&Response { status: Some(status), error: None, retry_after: None })
}

/// All of the messages mean this, with and without a binding's prefix, and whatever the status.
fn all(messages: &[&str], expected: Verdict) {
    for message in messages {
        for text in
            [(*message).to_owned(), format!("D1_ERROR: {message}"), format!("Error: D1_ERROR: {message} ")]
        {
            for status in [200, 400, 500, 503] {
                assert_eq!(said(status, &text), expected, "{status} {text}");
            }
        }
    }
}

#[test]
fn an_answer_that_is_missing_broken_off_or_a_gateways_is_unknown() {
    assert_eq!(verdict(&Response::default()), Verdict::Unknown);
    for status in [200, 204, 400, 408, 500, 502, 503, 504, 520, 522, 530] {
        assert_eq!(bare(status), Verdict::Unknown, "{status}");
    }
    all(
        &["Failed to parse body as JSON, got: <html>no such table, error code: 1015, SQLITE_FULL</html>"],
        Verdict::Unknown,
    );
}

#[test]
fn a_rate_limit_is_throttled_for_as_long_as_it_asks_or_a_second() {
    let asked = Response {
        status: Some(429),
        error: Some(ApiError { code: 971, message: "Please wait".to_owned() }),
        retry_after: Some(Duration::from_secs(270)),
    };
    assert_eq!(verdict(&asked), Verdict::Throttled { retry_after: Duration::from_secs(270) });
    let second = Verdict::Throttled { retry_after: Duration::from_secs(1) };
    assert_eq!(bare(429), second);
    assert_eq!(coded(429, 10000), second, "the status wins over the code");
    assert_eq!(coded(403, 1015), second);
    assert_eq!(coded(400, 971), second);
}

#[test]
fn a_reset_of_the_database_is_unknown() {
    all(
        &[
            "Network connection lost.",
            "D1 DB reset because its code was updated.",
            "Internal error in D1 DB storage caused object to be reset.",
            "Internal error while starting up D1 DB storage caused object to be reset.",
            "Replica disconnected from primary.",
            "Can't read from request stream because client disconnected.",
            "internal error; reference = e_Gz3hr",
            "disk I/O error: SQLITE_IOERR",
            "database is locked: SQLITE_BUSY",
        ],
        Verdict::Unknown,
    );
}

#[test]
fn a_node_that_is_not_found_is_tried_again() {
    all(&["Cannot resolve D1 DB due to transient issue on remote node."], Verdict::Unknown);
}

#[test]
fn a_long_queue_is_overloaded() {
    all(
        &[
            "D1 DB is overloaded. Requests queued for too long.",
            "D1 DB is overloaded. Too many requests queued.",
        ],
        Verdict::Overloaded,
    );
}

#[test]
fn work_that_the_database_gave_up_is_too_much() {
    all(
        &[
            "D1 DB storage operation exceeded timeout which caused object to be reset.",
            "D1 DB's isolate exceeded its memory limit and was reset.",
            "D1 DB exceeded its CPU time limit and was reset.",
        ],
        Verdict::TooMuch,
    );
}

#[test]
fn an_import_or_export_is_busy() {
    all(
        &["Currently processing a long-running import.", "Currently processing a long-running export."],
        Verdict::Busy,
    );
}

#[test]
fn what_is_above_a_limit_is_too_large() {
    all(
        &[
            "string or blob too big: SQLITE_TOOBIG",
            "statement too long: SQLITE_TOOBIG",
            "too many SQL variables at offset 434: SQLITE_ERROR",
            "out of memory: SQLITE_NOMEM",
        ],
        Verdict::TooLarge,
    );
    assert_eq!(bare(413), Verdict::TooLarge);
    assert_eq!(coded(413, 7413), Verdict::TooLarge);
}

#[test]
fn the_fence_is_told_from_other_constraints() {
    all(
        &[
            "NOT NULL constraint failed: _walcast_checkpoint.sequence",
            "NOT NULL constraint failed: _walcast_checkpoint.sequence: SQLITE_CONSTRAINT",
            "NOT NULL constraint failed: _walcast_checkpoint.sequence: SQLITE_CONSTRAINT (extended: \
             SQLITE_CONSTRAINT_NOTNULL)",
        ],
        Verdict::Fenced,
    );
    all(&["NOT NULL constraint failed: checkpoint.sequence: SQLITE_CONSTRAINT"], Verdict::Rejected);
    all(&["CHECK constraint failed: _walcast_checkpoint: SQLITE_CONSTRAINT"], Verdict::Rejected);
}

#[test]
fn what_sqlite_will_never_take_is_rejected() {
    all(
        &[
            "UNIQUE constraint failed: t.id: SQLITE_CONSTRAINT (extended: SQLITE_CONSTRAINT_PRIMARYKEY)",
            "cannot store TEXT value in INTEGER column t.n: SQLITE_CONSTRAINT",
            "datatype mismatch: SQLITE_MISMATCH",
            "near \"do\": syntax error at offset 12: SQLITE_ERROR",
            "D1_TYPE_ERROR: Type 'object' not supported for value '[object Object]'",
            "malformed JSON: SQLITE_ERROR",
            "Wrong number of parameter bindings for SQL query.",
        ],
        Verdict::Rejected,
    );
    assert_eq!(said(400, "something new"), Verdict::Rejected);
    assert_eq!(said(500, "something new"), Verdict::Unknown);
}

#[test]
fn a_table_or_column_that_is_not_there_is_missing() {
    all(
        &[
            "no such table: orders: SQLITE_ERROR",
            "no such column: note at offset 7: SQLITE_ERROR",
            "table orders has no column named note at offset 30: SQLITE_ERROR",
        ],
        Verdict::SchemaMissing,
    );
}

#[test]
fn no_room_is_full() {
    all(
        &[
            "Exceeded maximum DB size",
            "database or disk is full: SQLITE_FULL",
            "Your account has exceeded D1's maximum account storage limit, please contact Cloudflare",
        ],
        Verdict::Full,
    );
}

#[test]
fn the_free_tiers_end_is_the_daily_limit() {
    all(&["Your account has exceeded D1's free tier daily row write limit"], Verdict::DailyLimit);
}

#[test]
fn what_only_an_operator_can_put_right_is_refused() {
    for status in [301, 307, 401, 403, 404, 405] {
        assert_eq!(bare(status), Verdict::Refused, "{status}");
        assert_eq!(said(status, "Network connection lost."), Verdict::Refused, "{status}");
    }
    for code in [10000, 7403, 7400] {
        assert_eq!(coded(400, code), Verdict::Refused, "{code}");
    }
    all(
        &["not authorized: SQLITE_AUTH", "database disk image is malformed: SQLITE_CORRUPT"],
        Verdict::Refused,
    );
}

#[test]
fn a_database_that_is_not_there_is_gone_and_another_path_that_is_not_there_is_refused() {
    for status in [400, 404] {
        assert_eq!(coded(status, 7404), Verdict::Gone, "{status}");
    }
    assert_eq!(coded(404, 7003), Verdict::Refused);
}

#[test]
fn a_name_in_a_message_does_not_decide() {
    all(
        &["UNIQUE constraint failed: Network connection lost.D1 DB is overloaded: SQLITE_CONSTRAINT"],
        Verdict::Rejected,
    );
    all(&["no such table: internal error SQLITE_FULL: SQLITE_ERROR"], Verdict::SchemaMissing);
}
