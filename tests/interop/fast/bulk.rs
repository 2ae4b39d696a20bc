//! So many bytes by TCP, each compared where it arrives.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use groundlink::lab::Lab;
use groundlink::lab::options::Side;

use super::content::Content;

/// How long a connection may stand still. After a lost packet whose repetition is lost too, TCP waits for seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is compared at a time.
const PIECE: usize = 64 * 1024;

/// Carries `bytes` from each host to the other, both at once.
///
/// Both connections are open before either carries data: a host that has learnt a smaller path MTU from its own data announces the
/// smaller MSS to a connection that comes later, and then no large packet travels either way.
///
/// # Errors
/// Which way did not carry what it should, and where it began.
pub fn both_ways(lab: &Lab, bytes: usize) -> Result<(), String> {
    let failure = |from: Side, what: String| format!("TCP from {from}, {bytes} bytes: {what}");
    let connect = |from| connection(lab, from).map_err(|error| failure(from, error.to_string()));
    let connections = [(Side::A, connect(Side::A)?), (Side::B, connect(Side::B)?)];
    std::thread::scope(|scope| {
        let directions = connections.map(|(from, ends)| {
            let content = Content(bytes as u64 ^ from as u64);
            (from, scope.spawn(move || carry(ends, content, bytes)))
        });
        directions.into_iter().try_for_each(|(from, direction)| {
            let carried = direction.join().unwrap();
            carried.map_err(|what| failure(from, what))
        })
    })
}

/// Carries `bytes` from one end of a connection to the other.
fn carry(
    (source, sink): (TcpStream, TcpStream),
    content: Content,
    bytes: usize,
) -> Result<(), String> {
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || send(source, content, bytes));
        let arrived = receive(sink, content, bytes);
        let sent = sender.join().unwrap();
        // What the receiver saw tells more than the sender's broken pipe that follows from it.
        arrived?;
        sent.map_err(|error| error.to_string())
    })
}

/// A connection, its beginning at the host of `from`.
fn connection(lab: &Lab, from: Side) -> std::io::Result<(TcpStream, TcpStream)> {
    let address = |side: Side| lab.addressing().site(side).host;
    let world = lab.topology();
    let listener = world
        .host(from.other())
        .run(|| TcpListener::bind((address(from.other()), 0)))??;
    let target: (IpAddr, u16) = (address(from.other()), listener.local_addr()?.port());
    let source = world
        .host(from)
        .run(|| TcpStream::connect_timeout(&SocketAddr::from(target), PATIENCE))??;
    // It is there: the other end of a connection waits to be accepted.
    let (sink, _) = listener.accept()?;
    source.set_write_timeout(Some(PATIENCE))?;
    sink.set_read_timeout(Some(PATIENCE))?;
    Ok((source, sink))
}

fn send(mut stream: TcpStream, content: Content, bytes: usize) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    for (number, length) in pieces(bytes) {
        content.fill(number, &mut piece[..length]);
        stream.write_all(&piece[..length])?;
    }
    stream.shutdown(std::net::Shutdown::Write)
}

fn receive(mut stream: impl Read, content: Content, bytes: usize) -> Result<(), String> {
    let (mut piece, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
    for (number, length) in pieces(bytes) {
        let begin = number * PIECE as u64;
        let (piece, expected) = (&mut piece[..length], &mut expected[..length]);
        stream
            .read_exact(piece)
            .map_err(|error| format!("{error} after {begin} bytes or a little more"))?;
        content.fill(number, expected);
        if piece != expected {
            let place = piece.iter().zip(expected).position(|(is, was)| is != was);
            let place = begin + place.unwrap_or_default() as u64;
            return Err(format!("what arrived differs from byte {place} on"));
        }
    }
    match stream.read(&mut piece) {
        Ok(0) => Ok(()),
        more => Err(format!("more than was sent: {more:?}")),
    }
}

/// The numbers and lengths of the pieces that so many bytes are.
fn pieces(bytes: usize) -> impl Iterator<Item = (u64, usize)> {
    let begins = (0..bytes).step_by(PIECE);
    (0..).zip(begins.map(move |begin| PIECE.min(bytes - begin)))
}

#[test]
fn a_changed_lost_or_added_byte_is_reported() {
    let bytes = 3 * PIECE + 100;
    let mut good = vec![0; bytes];
    for (number, length) in pieces(bytes) {
        let begin = number as usize * PIECE;
        Content(7).fill(number, &mut good[begin..begin + length]);
    }
    let failure = |bytes_: &[u8]| receive(bytes_, Content(7), bytes);
    assert_eq!(failure(&good), Ok(()));
    let mut changed = good.clone();
    changed[PIECE + 5] ^= 1;
    let place = (PIECE + 5).to_string();
    assert!(failure(&changed).unwrap_err().contains(&place));
    assert!(failure(&good[..bytes - 1]).is_err());
    let mut added = good.clone();
    added.push(0);
    assert!(failure(&added).unwrap_err().contains("more"));
    let mut moved = good;
    moved[..2 * PIECE].rotate_left(PIECE);
    assert!(failure(&moved).is_err());
}
