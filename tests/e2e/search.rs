//! A registry with a search, which must never be believed to have been asked when it was not.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::loopback::any_port;

/// Docker's search over one image, which remembers what it was asked.
#[derive(Debug)]
pub struct Search {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Search {
    /// Finds `acme/app`, whatever is looked for.
    pub fn start() -> Search {
        let listener = TcpListener::bind(any_port()).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        // The thread ends with the process: a blocked accept is nothing to clean up.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Ok(target) = answer(&stream) {
                    noted.lock().unwrap().push(target);
                }
            }
        });
        Search { url, asked }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Paths and queries.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(mut stream: &TcpStream) -> std::io::Result<String> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
    }
    let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, body) = if target.starts_with("/v1/search?") {
        let found = json!({
            "name": "acme/app", "description": "found upstream", "star_count": 7,
            "is_official": false, "is_automated": false,
        });
        let page = json!({
            "num_results": 1, "num_pages": 1, "page": 1, "page_size": 25, "query": "app",
            "results": [found],
        });
        ("200 OK", page)
    } else {
        ("404 Not Found", json!({"errors": []}))
    };
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(target)
}
