//! TCP over the sandbox's own loopback: what its network stack costs, whoever's that is.

use std::io::{Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{on_one_processor, Budget, MEBIBYTE, MICRO};
use crate::report::Report;

const BLOCK: usize = 1 << 16;
/// For an answer that does not come.
const LIMIT: Duration = Duration::from_secs(5);

pub fn measure(report: &mut Report, budget: Budget) {
    report.cost_of("TCP connect", connect(budget).map(|s| s * MICRO), "µs");
    report.cost_of(
        "TCP round trip",
        on_one_processor(move || round_trip(budget)).map(|s| s * MICRO),
        "µs",
    );
    let rate = |seconds: f64| BLOCK as f64 / MEBIBYTE as f64 / seconds;
    report.rate_of("TCP stream", stream(budget).map(rate), "MiB/s");
}

fn connect(budget: Budget) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    budget.mean(1000, || {
        let client = open(address)?;
        drop((client, listener.accept()?));
        Ok(())
    })
}

fn round_trip(budget: Budget) -> Result<f64> {
    let (mut client, served) = serve(|mut peer| {
        let mut byte = [0];
        while peer.read(&mut byte).unwrap_or(0) == 1 && peer.write_all(&byte).is_ok() {}
    })?;
    let mut byte = [1];
    let seconds = budget.mean(u32::MAX, || {
        client.write_all(&byte)?;
        client.read_exact(&mut byte)
    });
    drop(client);
    let _ = served.join();
    seconds
}

/// Blocks that the sender could hand over; what fits into two buffers may still be on its way.
fn stream(budget: Budget) -> Result<f64> {
    let (mut client, served) = serve(|mut peer| {
        let mut block = [0; BLOCK];
        while peer.read(&mut block).unwrap_or(0) > 0 {}
    })?;
    let block = [7; BLOCK];
    let seconds = budget.mean(u32::MAX, || client.write_all(&block));
    drop(client);
    let _ = served.join();
    seconds
}

/// Connect to a thread that serves one connection.
fn serve(work: impl FnOnce(TcpStream) + Send + 'static) -> Result<(TcpStream, JoinHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = open(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    prepare(&peer)?;
    Ok((client, std::thread::spawn(move || work(peer))))
}

fn open(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    prepare(&stream)?;
    Ok(stream)
}

fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))
}
