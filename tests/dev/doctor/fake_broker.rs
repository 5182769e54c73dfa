//! The greeting of a release that no machine should run: a program that says `connection.start` and
//! nothing more. It stands in for nothing but that greeting.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

/// Greets as RabbitMQ of this version, until the process ends; gives the URL.
pub fn greet_as(version: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut header = [0; 8];
            // Whoever hangs up in between is not waited for.
            if stream.read_exact(&mut header).is_ok() && &header == b"AMQP\x00\x00\x09\x01" {
                let _ = stream.write_all(&start_frame(version));
            }
        }
    });
    format!("amqp://me:very-secret@{address}")
}

/// A method frame on channel 0: class 10, method 10, AMQP 0-9, properties, mechanisms, locales.
fn start_frame(version: &str) -> Vec<u8> {
    let mut properties = Vec::new();
    for (name, value) in [("product", "RabbitMQ"), ("version", version)] {
        properties.push(u8::try_from(name.len()).unwrap());
        properties.extend(name.bytes());
        properties.push(b'S');
        properties.extend(long(value.as_bytes()));
    }
    let mut method = vec![0, 10, 0, 10, 0, 9];
    method.extend(long(&properties));
    method.extend(long(b"PLAIN"));
    method.extend(long(b"en_US"));
    let mut frame = vec![1, 0, 0];
    frame.extend(long(&method));
    frame.push(0xCE);
    frame
}

/// With its length before it.
fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [length.as_slice(), bytes].concat()
}
