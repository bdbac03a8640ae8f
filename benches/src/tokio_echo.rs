//! The echo server on tokio, one thread: a task per connection, one `read`, one `write_all` of every whole frame.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HEADER: usize = 16;
const MAX_FRAME: usize = 64 * 1024;

/// Serves until it is killed.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(accept(port))
}

async fn accept(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = vec![0; MAX_FRAME];
    let mut have = 0;
    loop {
        let n = stream.read(&mut buf[have..]).await?;
        if n == 0 {
            return Ok(());
        }
        have += n;
        let whole = whole_frames(&buf[..have])?;
        if whole > 0 {
            stream.write_all(&buf[..whole]).await?;
            buf.copy_within(whole..have, 0);
            have -= whole;
        }
    }
}

/// Bytes of whole frames at the front of `data`: a big-endian u32 total length first, its 16-byte header included.
pub(crate) fn whole_frames(data: &[u8]) -> io::Result<usize> {
    let mut at = 0;
    while let Some(length) = data.get(at..at + 4) {
        let total = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        if !(HEADER..=MAX_FRAME).contains(&total) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if data.len() - at < total {
            break;
        }
        at += total;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_frames_count_and_a_bad_length_is_an_error() {
        let mut two = Vec::new();
        for _ in 0..2 {
            two.extend_from_slice(&20u32.to_be_bytes());
            two.extend_from_slice(&[0; 16]);
        }
        assert_eq!(whole_frames(&two).unwrap(), 40);
        assert_eq!(whole_frames(&two[..39]).unwrap(), 20);
        assert_eq!(whole_frames(&two[..3]).unwrap(), 0);
        assert!(whole_frames(&15u32.to_be_bytes()).is_err());
        assert!(whole_frames(&u32::MAX.to_be_bytes()).is_err());
    }
}
