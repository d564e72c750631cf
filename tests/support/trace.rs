//! What SQLite executes, from its own trace: each statement with its values in place.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Once;

use rusqlite::ffi;

thread_local! {
    static EXECUTED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Statements of this thread are kept until it is dropped.
pub struct Tracing;

/// Traces every connection that any thread opens from now on; what this thread executes is kept.
pub fn start() -> Tracing {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the extension neither opens nor closes a connection.
        #[expect(unsafe_code, reason = "rusqlite traces only connections that one has opened oneself")]
        unsafe { rusqlite::auto_extension::register_auto_extension(trace_connection) }.unwrap();
    });
    EXECUTED.set(Some(Vec::new()));
    Tracing
}

impl Tracing {
    /// What was executed since the last call.
    pub fn take(&self) -> Vec<String> {
        EXECUTED.with_borrow_mut(|executed| executed.replace(Vec::new())).unwrap_or_default()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        EXECUTED.set(None);
    }
}

#[expect(unsafe_code, reason = "called by SQLite")]
unsafe extern "C" fn trace_connection(
    connection: *mut ffi::sqlite3,
    _: *mut *mut c_char,
    _: *const ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: SQLite hands over the connection that it is opening.
    unsafe {
        ffi::sqlite3_trace_v2(connection, ffi::SQLITE_TRACE_STMT as c_uint, Some(keep), std::ptr::null_mut())
    }
}

#[expect(unsafe_code, reason = "called by SQLite")]
unsafe extern "C" fn keep(_: c_uint, _: *mut c_void, statement: *mut c_void, _: *mut c_void) -> c_int {
    // SAFETY: for SQLITE_TRACE_STMT the third argument is the statement; the text is ours to free.
    let text = unsafe {
        let text = ffi::sqlite3_expanded_sql(statement.cast());
        let copy = (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned());
        ffi::sqlite3_free(text.cast());
        copy
    };
    EXECUTED.with_borrow_mut(|executed| {
        if let (Some(executed), Some(text)) = (executed, text) {
            executed.push(text);
        }
    });
    0
}
