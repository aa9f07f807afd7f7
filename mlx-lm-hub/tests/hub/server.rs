//! A hub on this machine: the few addresses that a download asks for, from a repository in memory, with faults on demand.

use sha2::Digest;
use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

pub(crate) const REPO: &str = "owner/name";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Entries on one page of the listing: small, so that it has more than one.
const PAGE: usize = 3;

#[derive(Clone)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
    pub(crate) large: bool,
    /// The true hash, unless a test puts another.
    pub(crate) hash: String,
    /// The size in the listing, and the one in the answer for the file: true too.
    pub(crate) size: u64,
    pub(crate) linked_size: u64,
}

impl File {
    pub(crate) fn new(name: &str, content: impl Into<Vec<u8>>, large: bool) -> File {
        let content = content.into();
        let size = content.len() as u64;
        let hash = match large {
            true => hex(&sha2::Sha256::digest(&content)),
            false => hex(&sha1::Sha1::digest([format!("blob {size}\0").as_bytes(), &content].concat())),
        };
        File { name: name.into(), content, large, hash, size, linked_size: size }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        write!(s, "{b:02x}").unwrap();
        s
    })
}

/// What arrived, and how much of a content was sent in answer.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) auth: Option<String>,
    /// Earlier requests with this method and path.
    pub(crate) count: usize,
    pub(crate) sent: u64,
}

impl Request {
    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }

    pub(crate) fn is_content(&self) -> bool {
        self.is("GET", "/resolve/")
    }
}

/// How to answer.
pub(crate) enum Answer {
    Honest,
    /// A status and headers, each ended by `\r\n`; the body echoes the token.
    Status(u16, &'static str),
    /// Promises all, sends so many bytes of the body, hangs up.
    Break(usize),
    /// Sends so many bytes of the body, then nothing until the server stops.
    Stall(usize),
    /// The whole file with status 200, whatever the range.
    IgnoreRange,
    /// A range that starts elsewhere than asked for.
    WrongRange,
    /// Another body, with its own length.
    Body(Vec<u8>),
    /// To the same path on another address.
    Redirect(String),
    /// To another path on this server.
    Moved(String),
}

type Hook = dyn Fn(&Request) -> Answer + Send + Sync;

pub(crate) struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    files: Vec<File>,
    commit: String,
    hook: Box<Hook>,
    seen: Mutex<Vec<Request>>,
    stopped: AtomicBool,
}

impl Server {
    pub(crate) fn honest(files: Vec<File>) -> Server {
        Server::new(files, |_| Answer::Honest)
    }

    pub(crate) fn new(files: Vec<File>, hook: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        Server::with_commit(files, COMMIT, hook)
    }

    pub(crate) fn with_commit(
        files: Vec<File>,
        commit: &str,
        hook: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (hook, seen, stopped) = (Box::new(hook), Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { address, files, commit: commit.into(), hook, seen, stopped });
        let for_thread = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if for_thread.stopped.load(Ordering::Relaxed) {
                    break;
                }
                let shared = for_thread.clone();
                // A client that hangs up makes writing fail, as it should.
                thread::spawn(move || shared.serve(stream).unwrap_or(()));
            }
        });
        Server { shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    pub(crate) fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The requests for contents.
    pub(crate) fn contents(&self) -> Vec<Request> {
        self.seen().into_iter().filter(Request::is_content).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.shared.address); // wakes the listener
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?).take(1 << 16);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(String::from);
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
        let (mut range, mut auth) = (None, None);
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? <= 2 {
                break;
            }
            let Some((name, value)) = header.split_once(':') else { continue };
            match name.to_ascii_lowercase().as_str() {
                "range" => range = Some(value.trim().to_string()),
                "authorization" => auth = Some(value.trim().to_string()),
                _ => {}
            }
        }
        let (index, request) = {
            let mut seen = self.seen.lock().unwrap();
            let count = seen.iter().filter(|r| r.method == method && r.path == path).count();
            let request = Request { method, path, range, auth, count, sent: 0 };
            seen.push(request.clone());
            (seen.len() - 1, request)
        };
        let answer = (self.hook)(&request);
        let (mut status, mut headers, mut body) = self.honest(&request, &answer);
        let mut stop_at = usize::MAX;
        let mut stall = false;
        match answer {
            Answer::Honest | Answer::IgnoreRange | Answer::WrongRange => {}
            Answer::Status(code, extra) => {
                let token = request.auth.clone().unwrap_or_default();
                (status, headers, body) =
                    (code, format!("{extra}X-Error-Message: {token}\r\n"), token.into_bytes());
            }
            Answer::Break(n) => stop_at = n,
            Answer::Stall(n) => (stop_at, stall) = (n, true),
            Answer::Body(other) => body = other,
            Answer::Redirect(to) => {
                (status, body) = (302, Vec::new());
                write!(headers, "Location: {to}{}\r\n", request.path).unwrap();
            }
            Answer::Moved(to) => (status, headers, body) = (307, format!("Location: {to}\r\n"), Vec::new()),
        }
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes())?;
        if request.method != "HEAD" {
            let body = &body[..stop_at.min(length)];
            self.seen.lock().unwrap()[index].sent = body.len() as u64;
            stream.write_all(body)?;
        }
        while stall && !self.stopped.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn honest(&self, request: &Request, answer: &Answer) -> (u16, String, Vec<u8>) {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if let Some(rest) = path.strip_prefix(&format!("/api/models/{REPO}/")) {
            return match rest.split_once('/') {
                Some(("revision", _)) => {
                    (200, String::new(), format!(r#"{{"id":"{REPO}","sha":"{}"}}"#, self.commit).into_bytes())
                }
                Some(("tree", _)) => self.tree(path, query),
                _ => (404, String::new(), Vec::new()),
            };
        }
        let content = path.strip_prefix(&format!("/{REPO}/resolve/{}/", self.commit));
        let Some(file) =
            content.and_then(|name| self.files.iter().find(|f| f.name == name.replace("%20", " ")))
        else {
            return (404, "X-Error-Code: EntryNotFound\r\n".into(), Vec::new());
        };
        let mut headers = format!("ETag: \"{}\"\r\nX-Repo-Commit: {}\r\n", file.hash, self.commit);
        if file.large {
            let size = file.linked_size;
            write!(headers, "X-Linked-ETag: \"{}\"\r\nX-Linked-Size: {size}\r\n", file.hash).unwrap();
        }
        let length = file.content.len();
        let from =
            request.range.as_ref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match from {
            Some(from) if from < length && !matches!(answer, Answer::IgnoreRange) => {
                let from = if matches!(answer, Answer::WrongRange) { from - 1 } else { from };
                write!(headers, "Content-Range: bytes {from}-{}/{length}\r\n", length - 1).unwrap();
                (206, headers, file.content[from..].to_vec())
            }
            Some(from) if from >= length => (416, headers, Vec::new()),
            _ => (200, headers, file.content.clone()),
        }
    }

    fn tree(&self, path: &str, query: &str) -> (u16, String, Vec<u8>) {
        let page: usize =
            query.split('&').find_map(|q| q.strip_prefix("cursor=")).map_or(0, |c| c.parse().unwrap());
        let mut entries: Vec<String> = self.files.iter().map(entry).collect();
        entries.push(r#"{"type":"directory","oid":"x","size":0,"path":"sub"}"#.into());
        let listed = entries.iter().skip(page * PAGE).take(PAGE).cloned().collect::<Vec<_>>().join(",");
        let headers = match (page + 1) * PAGE < entries.len() {
            true => format!("Link: <http://{}{path}?cursor={}>; rel=\"next\"\r\n", self.address, page + 1),
            false => String::new(),
        };
        (200, headers, format!("[{listed}]").into_bytes())
    }
}

/// As the hub lists it: the SHA-256 of a large file is `lfs.oid`.
fn entry(file: &File) -> String {
    let name = file.name.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", c as u32),
        c => c.to_string(),
    });
    let (name, size, hash) = (name.collect::<String>(), file.size, &file.hash);
    match file.large {
        true => format!(
            r#"{{"type":"file","oid":"{}","size":{size},"path":"{name}","lfs":{{"oid":"{hash}","size":{size},"pointerSize":134}}}}"#,
            "f".repeat(40)
        ),
        false => format!(r#"{{"type":"file","oid":"{hash}","size":{size},"path":"{name}"}}"#),
    }
}
