//! Asking a LAPI for decisions: `GET /v1/decisions/stream`, with the bouncer's key in `X-Api-Key`.
//!
//! What is not there or `null` in an answer is nothing; a decision needs a scope, a value, a type and a duration, which is how long it still lasts,
//! as Go writes durations.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Deserializer};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a question may take: all decisions are some megabytes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of an answer, at the most.
const LONGEST: usize = 256 << 20;

/// CrowdSec keeps name and version apart by the stroke.
const NAME: &str = concat!("tapwall/", env!("CARGO_PKG_VERSION"));

/// What changed, or everything.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Stream {
    /// Decisions that hold.
    #[serde(default, deserialize_with = "or_nothing")]
    pub(super) new: Vec<Decision>,
    /// Decisions that no longer do.
    #[serde(default, deserialize_with = "or_nothing")]
    pub(super) deleted: Vec<Decision>,
}

/// A decision.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Decision {
    /// How long it still lasts.
    pub(super) duration: String,
    /// What `value` is.
    pub(super) scope: String,
    /// Whom it is about.
    pub(super) value: String,
    /// What to do.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Why.
    #[serde(default)]
    pub(super) scenario: String,
}

fn or_nothing<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<Decision>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}

/// The LAPI gives no decisions.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "{url} cannot be asked: it must begin with http:// and name a machine (TLS is not spoken)"
    )]
    Url { url: Uri },
    #[error("the key cannot be sent: it has characters that no header has")]
    Key(#[source] hyper::header::InvalidHeaderValue),
    #[error("the LAPI at {url} refuses the key ({status}): see `cscli bouncers list`")]
    Refused { url: Uri, status: StatusCode },
    #[error("the LAPI at {url} answers {status}")]
    Status { url: Uri, status: StatusCode },
    #[error("the LAPI at {url} does not answer in time")]
    Silent { url: Uri },
    #[error("cannot reach the LAPI at {url}")]
    Connect {
        url: Uri,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot make a request for {url}")]
    Request {
        url: Uri,
        #[source]
        source: hyper::http::Error,
    },
    #[error("cannot talk to the LAPI at {url}")]
    Talk {
        url: Uri,
        #[source]
        source: hyper::Error,
    },
    #[error("the answer of the LAPI at {url} breaks off or does not end")]
    Body {
        url: Uri,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the answer of the LAPI at {url} is not understood")]
    Json {
        url: Uri,
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// Whether asking again is of no use.
    pub(super) const fn is_final(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Key(_) | Self::Refused { .. } => true,
            Self::Status { .. }
            | Self::Silent { .. }
            | Self::Connect { .. }
            | Self::Request { .. }
            | Self::Talk { .. }
            | Self::Body { .. }
            | Self::Json { .. } => false,
        }
    }
}

/// A LAPI.
pub(super) struct Api {
    url: Uri,
    host: String,
    port: u16,
    /// As the header has it.
    authority: String,
    key: HeaderValue,
}

impl Api {
    pub(super) fn new(url: &Uri, key: &str) -> Result<Self, Error> {
        let wrong = || Error::Url { url: url.clone() };
        if url.scheme_str() != Some("http") {
            return Err(wrong());
        }
        let authority = url.authority().ok_or_else(wrong)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let mut key = HeaderValue::from_str(key).map_err(Error::Key)?;
        key.set_sensitive(true);
        Ok(Self {
            url: url.clone(),
            host,
            port: authority.port_u16().unwrap_or(80),
            authority: authority.to_string(),
            key,
        })
    }

    /// What changed since the last question, or all that holds.
    pub(super) async fn decisions(&self, whole: bool) -> Result<Stream, Error> {
        let url = || self.url.clone();
        let body = timeout(PATIENCE, self.ask(whole)).await;
        let body = body.map_err(|_elapsed| Error::Silent { url: url() })??;
        serde_json::from_slice(&body).map_err(|source| Error::Json { url: url(), source })
    }

    async fn ask(&self, whole: bool) -> Result<Bytes, Error> {
        let url = || self.url.clone();
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|source| Error::Connect { url: url(), source })?;
        let talk = |source| Error::Talk { url: url(), source };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(talk)?;
        let connection = tokio::spawn(connection);
        let base = self.url.path().trim_end_matches('/');
        let request = Request::get(format!("{base}/v1/decisions/stream?startup={whole}"))
            .header(HOST, &self.authority)
            .header(USER_AGENT, NAME)
            .header(ACCEPT, "application/json")
            .header("X-Api-Key", &self.key)
            .body(Empty::<Bytes>::new())
            .map_err(|source| Error::Request { url: url(), source })?;
        let response = sender.send_request(request).await.map_err(talk)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        connection.abort();
        match status {
            StatusCode::OK => {}
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                return Err(Error::Refused { url: url(), status });
            }
            status => return Err(Error::Status { url: url(), status }),
        }
        let body = body.map_err(|source| Error::Body { url: url(), source })?;
        Ok(body.to_bytes())
    }
}

/// A length of time as Go writes it: `3h59m57.5s`; a negative one is over.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, behind) = rest.split_at(end.unwrap_or(rest.len()));
        rest = behind;
        seconds += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
    }
    match negative {
        true => Some(Duration::ZERO),
        false => Duration::try_from_secs_f64(seconds).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, milliseconds) in [
            ("3h59m57s", 14_397_000),
            ("3h59m57.5s", 14_397_500),
            ("167h59m59.999s", 604_799_999),
            ("500ms", 500),
            ("12.5µs", 0),
            ("0", 0),
            ("0s", 0),
            ("-4m3.2s", 0),
        ] {
            let found = duration(text).map(|found| found.as_millis());
            assert_eq!(found, Some(milliseconds), "{text}");
        }
        for text in ["", "-", "4", "h", "1d", "1h2", "1..2s", "1e400h", "é"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn answers() {
        let all = r#"{"deleted":null,"new":[{"duration":"3h59m57s","id":1,"origin":"cscli","scenario":"manual","scope":"Ip","type":"ban","uuid":"x","value":"192.0.2.7"}]}"#;
        let stream: Stream = serde_json::from_str(all).unwrap();
        assert_eq!((stream.new.len(), stream.deleted.len()), (1, 0));
        assert_eq!(stream.new[0].value, "192.0.2.7");
        assert_eq!(
            serde_json::from_str::<Stream>("{}").unwrap(),
            Stream::default()
        );
        assert!(serde_json::from_str::<Stream>("{\"new\":[{}]}").is_err());
    }

    #[test]
    fn which_lapis_can_be_asked() {
        for (url, host, port) in [
            ("http://127.0.0.1:8080/", "127.0.0.1", 8080),
            ("http://[::1]:8080", "::1", 8080),
            ("http://lapi.example.net/base/", "lapi.example.net", 80),
        ] {
            let api = Api::new(&url.parse().unwrap(), "key").ok();
            let found = api.map(|api| (api.host, api.port));
            assert_eq!(found, Some((host.to_owned(), port)), "{url}");
        }
        for (url, key) in [
            ("https://127.0.0.1:8080/", "key"),
            ("/v1", "key"),
            ("http://127.0.0.1/", "a\nb"),
        ] {
            let error = Api::new(&url.parse().unwrap(), key).err();
            assert!(error.is_some_and(|error| error.is_final()), "{url}");
        }
    }
}
