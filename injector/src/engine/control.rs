//! The socket by which `status` and `stop` reach a running experiment.
//!
//! It lies beside the journal, so root alone can use it. A client sends one line of JSON and gets one line
//! back.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Name of the socket in the experiment's directory.
pub const SOCKET_NAME: &str = "control.sock";

/// A request is a word; nothing longer is read.
const LONGEST_REQUEST: usize = 256;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase")]
pub enum Request {
    /// The report so far.
    Status,
    /// The end of the experiment.
    Stop,
}

/// Why an experiment could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("the experiment does not answer on {}: {}", path.display(), crate::errno::name_of(.source))]
pub struct ControlError {
    /// The socket.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

/// Asks the experiment whose directory this is.
pub fn ask(directory: &Path, request: Request) -> Result<serde_json::Value, ControlError> {
    let path = directory.join(SOCKET_NAME);
    ask_at(&path, request).map_err(|source| ControlError { path, source })
}

fn ask_at(path: &Path, request: Request) -> std::io::Result<serde_json::Value> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// Reads a request from a client; `None` if it makes no sense or takes too long.
pub(super) async fn read_request(stream: &mut tokio::net::UnixStream) -> Option<Request> {
    let mut line = BytesMut::with_capacity(LONGEST_REQUEST);
    let read = async {
        while !line.contains(&b'\n') && line.len() < LONGEST_REQUEST {
            if stream.read_buf(&mut line).await.ok()? == 0 {
                break;
            }
        }
        serde_json::from_slice(&line).ok()
    };
    tokio::time::timeout(PATIENCE, read).await.ok().flatten()
}

/// Answers a client. One that is gone needs no answer.
pub(super) async fn answer(stream: &mut tokio::net::UnixStream, answer: &impl Serialize) {
    let Ok(mut line) = serde_json::to_vec(answer) else { return };
    line.push(b'\n');
    // A client that hung up has lost interest, which is no error of the experiment.
    let _ = tokio::time::timeout(PATIENCE, stream.write_all(&line)).await;
}
