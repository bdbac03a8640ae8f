//! Files as answers: conditions, ranges, and a directory whose files are served.
//!
//! The bytes go from the file to the socket by `Conn::send_file`, which may wait for the disk. So
//! may opening. Both are meant for local disks; where that is too slow, open on a worker and
//! answer from memory.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::{fmt, fs, io};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::date;
use super::exchange::Exchange;
use super::message::{RequestHead, Response};
use super::outgoing::Piece;
use super::range::{self, Ranges};
use crate::Context;

/// A regular file that answers GET and HEAD.
///
/// ```no_run
/// # use netlib::http::{Exchange, File, RequestHandler, Response};
/// # use netlib::Context;
/// fn on_request(_: &mut (), cx: &mut Context<()>, exchange: &Exchange) -> Option<Box<dyn RequestHandler<()>>> {
///     match std::fs::File::open("/srv/report.csv").and_then(File::new) {
///         Ok(file) => exchange.send_file(cx, &file.content_type("text/csv").header("Cache-Control", "no-cache")),
///         Err(_) => exchange.send(cx, Response::new(404)),
///     }
///     None
/// }
/// ```
#[derive(Debug, Clone)]
pub struct File {
    fd: Rc<OwnedFd>,
    len: u64,
    /// Seconds since 1970.
    modified: u64,
    etag: String,
    content_type: String,
    headers: Vec<(String, String)>,
}

impl File {
    /// An open file; an error if it is no regular one. What it is now is what is answered:
    /// later growth is not seen, and one that becomes shorter while it is sent ends the
    /// connection.
    ///
    /// # Errors
    ///
    /// If it is no regular file, or no directory, or cannot be read.
    pub fn new(file: fs::File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Self {
            fd: Rc::new(file.into()),
            len: metadata.len(),
            modified: u64::try_from(seconds).unwrap_or(0),
            etag: format!("\"{:x}-{seconds:x}-{nanos:x}-{:x}\"", metadata.ino(), metadata.len()),
            content_type: "application/octet-stream".to_owned(),
            headers: Vec::new(),
        })
    }

    /// Sets the header `Content-Type`, which is `application/octet-stream` otherwise.
    pub fn content_type(mut self, content_type: &str) -> Self {
        content_type.clone_into(&mut self.content_type);
        self
    }

    /// Adds a header to its answers.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Names this version of the file.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    fn response(&self, status: u16) -> Response {
        let response = Response::new(status)
            .header("ETag", &self.etag)
            .header("Last-Modified", &date::format(self.modified))
            .header("Accept-Ranges", "bytes");
        self.headers.iter().fold(response, |response, (name, value)| response.header(name, value))
    }

    fn part(&self, range: std::ops::Range<u64>) -> Piece {
        Piece::File(Rc::clone(&self.fd), range)
    }
}

/// What a request asks for of a file.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    MethodNotAllowed,
    PreconditionFailed,
    NotModified,
    Ranges(Ranges),
}

/// Conditions in the order of RFC 9110 §13.2.2.
fn plan(head: &RequestHead, len: u64, etag: &str, modified: u64) -> Plan {
    if !matches!(head.method(), "GET" | "HEAD") {
        return Plan::MethodNotAllowed;
    }
    let since = |name| head.header(name).and_then(date::parse);
    let names = |value: &str, weak: bool| {
        value
            .split(',')
            .map(str::trim_ascii)
            .any(|tag| tag == "*" || tag == etag || (weak && tag.strip_prefix("W/") == Some(etag)))
    };
    let failed = match head.header("if-match") {
        Some(value) => !names(value, false),
        None => since("if-unmodified-since").is_some_and(|limit| modified > limit),
    };
    if failed {
        return Plan::PreconditionFailed;
    }
    let unchanged = match head.header("if-none-match") {
        Some(value) => names(value, true),
        None => since("if-modified-since").is_some_and(|limit| modified <= limit),
    };
    if unchanged {
        return Plan::NotModified;
    }
    let same = match head.header("if-range") {
        None => true,
        Some(value) if value.starts_with('"') => value == etag,
        Some(value) => date::parse(value) == Some(modified),
    };
    match head.header("range") {
        // For HEAD it has no meaning.
        Some(value) if same && head.method() == "GET" => Plan::Ranges(range::parse(value, len)),
        _ => Plan::Ranges(Ranges::Whole),
    }
}

impl Exchange {
    /// Answers with a file, or with the ranges of it that are asked for: 200, 206, 304, 405,
    /// 412, 416.
    pub fn send_file<S: 'static>(&self, cx: &mut Context<S>, file: &File) {
        let len = file.len;
        let ranges = match plan(self.head(), len, &file.etag, file.modified) {
            Plan::MethodNotAllowed => return self.send(cx, Response::method_not_allowed("GET, HEAD")),
            Plan::PreconditionFailed => return self.send(cx, file.response(412)),
            Plan::NotModified => return self.send(cx, file.response(304)),
            Plan::Ranges(ranges) => ranges,
        };
        match ranges {
            Ranges::Whole => {
                let response = file.response(200).header("Content-Type", &file.content_type);
                self.send_pieces(cx, &response, len, [file.part(0..len)]);
            }
            Ranges::Unsatisfiable => {
                self.send(cx, file.response(416).header("Content-Range", &format!("bytes */{len}")));
            }
            Ranges::Parts(parts) => match &parts[..] {
                [part] => {
                    let range = format!("bytes {}-{}/{len}", part.start, part.end - 1);
                    let response = file.response(206).header("Content-Type", &file.content_type);
                    let response = response.header("Content-Range", &range);
                    self.send_pieces(cx, &response, part.end - part.start, [file.part(part.clone())]);
                }
                parts => {
                    let boundary = format!("{:016x}{:016x}", cx.random(), cx.random());
                    let pieces = multipart(file, parts, &boundary);
                    let total = pieces.iter().map(Piece::len).sum();
                    let content_type = format!("multipart/byteranges; boundary={boundary}");
                    let response = file.response(206).header("Content-Type", &content_type);
                    self.send_pieces(cx, &response, total, pieces);
                }
            },
        }
    }
}

fn multipart(file: &File, parts: &[std::ops::Range<u64>], boundary: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for part in parts {
        let mut head = format!("\r\n--{boundary}\r\nContent-Type: {}\r\n", file.content_type);
        let (first, last) = (part.start, part.end - 1);
        write!(head, "Content-Range: bytes {first}-{last}/{}\r\n\r\n", file.len).expect("a String takes everything");
        pieces.push(Piece::Bytes(head.into()));
        pieces.push(file.part(part.clone()));
    }
    pieces.push(Piece::Bytes(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    pieces
}

/// The files under one directory, by the paths of requests.
///
/// A path is decoded once and must stay below the root: `..`, NUL and an encoded slash are refused,
/// and names that begin with a dot do not exist. Symbolic links are followed as long as they stay
/// below the root too; one that leads out of it, or is absolute, is as good as no file. That is
/// decided by the kernel at the moment of opening (`openat2`, Linux 5.6), so whoever may change
/// the directory cannot win a race against it.
///
/// Thread rule: it may be shared; but opening and reading a file waits for the disk.
///
/// ```
/// use netlib::http::{Exchange, Files, RequestHandler};
/// use netlib::Context;
///
/// # fn main() -> std::io::Result<()> {
/// let files = Files::new("/usr/share")?.index("index.html");
/// let service = move |_: &mut (), cx: &mut Context<()>, exchange: &Exchange| -> Option<Box<dyn RequestHandler<()>>> {
///     files.answer(cx, exchange);
///     None
/// };
/// # let _ = service;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Files {
    root: OwnedFd,
    index: Option<String>,
}

/// Why there is no file.
///
/// ```
/// use netlib::http::FileError;
///
/// assert_eq!(FileError::NotFound.status(), 404);
/// assert_eq!(FileError::BadPath.to_string(), "the path cannot name a file");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileError {
    /// The path cannot name a file.
    BadPath,
    /// It names none, or none that is served.
    NotFound,
    /// It names a directory, but without the slash at the end.
    IsDirectory,
    /// It may not be read.
    Forbidden,
    /// Another error of the operating system.
    Io(io::ErrorKind),
}

impl FileError {
    /// The status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::BadPath => 400,
            Self::NotFound => 404,
            Self::IsDirectory => 301,
            Self::Forbidden => 403,
            Self::Io(_) => 500,
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadPath => f.write_str("the path cannot name a file"),
            Self::NotFound => f.write_str("there is no such file"),
            Self::IsDirectory => f.write_str("it is a directory"),
            Self::Forbidden => f.write_str("the file may not be read"),
            Self::Io(kind) => write!(f, "i/o error: {kind}"),
        }
    }
}

impl std::error::Error for FileError {}

impl Files {
    /// The files under `root`, which must exist.
    ///
    /// # Errors
    ///
    /// If it is no regular file, or no directory, or cannot be read.
    pub fn new(root: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(root.as_ref(), flags, Mode::empty())?, index: None })
    }

    /// A path that ends in a slash means this file of the directory.
    pub fn index(mut self, name: &str) -> Self {
        self.index = Some(name.to_owned());
        self
    }

    /// Opens the file that `path`, as it stands in a request, means, with the content type that
    /// goes with its name.
    ///
    /// # Errors
    ///
    /// [`FileError`] says why there is no file.
    pub fn open(&self, path: &str) -> Result<File, FileError> {
        let mut name = map(path)?;
        if path.ends_with('/') {
            name.push(self.index.as_ref().ok_or(FileError::NotFound)?);
        }
        // Not waiting for the other end of a FIFO.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(&self.root, &name, flags, Mode::empty(), resolve);
        let file = fs::File::from(opened.map_err(|error| match io::Error::from(error).kind() {
            io::ErrorKind::PermissionDenied => FileError::Forbidden,
            _ if matches!(error, rustix::io::Errno::XDEV | rustix::io::Errno::LOOP) => FileError::NotFound,
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
                FileError::NotFound
            }
            kind => FileError::Io(kind),
        })?);
        match file.metadata() {
            Ok(metadata) if metadata.is_dir() => return Err(FileError::IsDirectory),
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(FileError::NotFound),
            Err(error) => return Err(FileError::Io(error.kind())),
        }
        let file = File::new(file).map_err(|error| FileError::Io(error.kind()))?;
        Ok(file.content_type(content_type(&name)))
    }

    /// Answers the request with the file that its path means, or says why not.
    pub fn answer<S: 'static>(&self, cx: &mut Context<S>, exchange: &Exchange) {
        if !matches!(exchange.head().method(), "GET" | "HEAD") {
            return exchange.send(cx, Response::method_not_allowed("GET, HEAD"));
        }
        let path = exchange.head().path();
        match self.open(path) {
            Ok(file) => exchange.send_file(cx, &file),
            Err(FileError::IsDirectory) if self.index.is_some() => {
                // Two slashes at the start would name another host.
                let location = format!("/{}/", path.trim_matches('/'));
                exchange.send(cx, Response::new(301).header("Location", &location));
            }
            Err(FileError::IsDirectory) => exchange.send(cx, Response::refusal(404)),
            Err(error) => exchange.send(cx, Response::refusal(error.status())),
        }
    }
}

/// A request's path as one relative to the root.
fn map(path: &str) -> Result<PathBuf, FileError> {
    let path = path.strip_prefix('/').ok_or(FileError::BadPath)?;
    let mut mapped = PathBuf::from(".");
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let name = decode(segment).ok_or(FileError::BadPath)?;
        match &name[..] {
            b"." => {}
            b".." => return Err(FileError::BadPath),
            name if name.contains(&b'/') || name.contains(&0) => return Err(FileError::BadPath),
            [b'.', ..] => return Err(FileError::NotFound),
            name => mapped.push(std::ffi::OsStr::from_bytes(name)),
        }
    }
    Ok(mapped)
}

fn decode(segment: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            decoded.push((digit()? * 16 + digit()?) as u8);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

/// By the ending of the name: what browsers need to be told.
fn content_type(path: &Path) -> &'static str {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "txt" | "md" | "log" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "json" | "map" => "application/json",
        "xml" => "application/xml",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "svg" => "image/svg+xml",
        "ico" => "image/vnd.microsoft.icon",
        "mp3" => "audio/mpeg",
        "ogg" | "opus" => "audio/ogg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one range is meant, not its numbers
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (path, mapped) in [
            ("/", "."),
            ("/a/b.txt", "./a/b.txt"),
            ("//a///b", "./a/b"),
            ("/./a/%62", "./a/b"),
            ("/a%20b%C3%A9", "./a bé"),
            ("/%2561", "./%61"),
        ] {
            assert_eq!(map(path), Ok(PathBuf::from(mapped)), "{path}");
        }
        for path in ["", "a", "*", "/..", "/a/../b", "/%2e%2e/a", "/.%2E", "/a%2fb", "/%00", "/%", "/%1", "/%zz"] {
            assert_eq!(map(path), Err(FileError::BadPath), "{path}");
        }
        for path in ["/.git/config", "/%2ehidden", "/..."] {
            assert_eq!(map(path), Err(FileError::NotFound), "{path}");
        }
    }

    #[test]
    fn conditions_are_weighed_in_the_order_of_the_standard() {
        let etag = "\"v1\"";
        let modified = 784_111_777;
        let then = "Sun, 06 Nov 1994 08:49:37 GMT";
        let before = "Sun, 06 Nov 1994 08:49:36 GMT";
        let whole = || Plan::Ranges(Ranges::Whole);
        let part = || Plan::Ranges(Ranges::Parts(vec![0..1]));
        for (request, expected) in [
            ("GET", whole()),
            ("HEAD", whole()),
            ("POST", Plan::MethodNotAllowed),
            ("GET|If-None-Match: \"v1\"", Plan::NotModified),
            ("GET|If-None-Match: \"v0\", W/\"v1\"", Plan::NotModified),
            ("GET|If-None-Match: *", Plan::NotModified),
            ("GET|If-None-Match: \"v0\"", whole()),
            (&format!("GET|If-None-Match: \"v0\"|If-Modified-Since: {then}"), whole()),
            (&format!("GET|If-Modified-Since: {then}"), Plan::NotModified),
            (&format!("GET|If-Modified-Since: {before}"), whole()),
            ("GET|If-Modified-Since: yesterday", whole()),
            ("GET|If-Match: \"v1\"", whole()),
            ("GET|If-Match: \"v0\"", Plan::PreconditionFailed),
            ("GET|If-Match: W/\"v1\"", Plan::PreconditionFailed),
            (&format!("GET|If-Unmodified-Since: {before}"), Plan::PreconditionFailed),
            ("GET|Range: bytes=0-0", part()),
            ("HEAD|Range: bytes=0-0", whole()),
            ("GET|Range: bytes=0-0|If-Range: \"v1\"", part()),
            ("GET|Range: bytes=0-0|If-Range: \"v0\"", whole()),
            ("GET|Range: bytes=0-0|If-Range: W/\"v1\"", whole()),
            (&format!("GET|Range: bytes=0-0|If-Range: {then}"), part()),
            (&format!("GET|Range: bytes=0-0|If-Range: {before}"), whole()),
        ] {
            let text = request.replacen('|', " / HTTP/1.1\r\n", 1).replace('|', "\r\n");
            let text = if request.contains('|') { text } else { format!("{request} / HTTP/1.1") };
            let head = super::super::parse::request_head(format!("{text}\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(plan(&head, 10, etag, modified), expected, "{request}");
        }
    }
}
