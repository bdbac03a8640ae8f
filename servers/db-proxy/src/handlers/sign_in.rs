//! 0x0703: a name and a password's digest, checked. Every one is answered, with the name and the
//! cookie that it carried, because a client waits behind it (spec/wire.md §8).

use std::sync::PoisonError;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use tt_proto::im::server::{ImValidateReq, ImValidateRsp};

use super::Request;
use super::address_book::card;
use crate::attempts::MAX_NAME;
use crate::lanes::Access;
use crate::store::Validation;

/// Result codes and their texts, as recorded clients show them.
const ACCEPTED: (u32, &str) = (0, "成功");
const WRONG: (u32, &str) = (1, "用户名/密码错误");
const FAILED: (u32, &str) = (2, "服务端异常");
const LOCKED: (u32, &str) = (6, "用户名/密码错误次数太多");

pub(super) fn validate(request: &mut Request<'_>) {
    let Ok(query) = request.pdu.decode::<ImValidateReq>() else {
        request.link.malformed(request.cx, request.pdu);
        request.server.metrics.sign_in("malformed");
        let Fragment { name, attach } = salvage(request.pdu.body);
        let name = String::from_utf8_lossy(&name).into_owned();
        request.reply(&answer(name, attach, FAILED));
        return;
    };
    let ImValidateReq { user_name: name, password, attach_data: attach } = query;
    let otherwise = answer(name.clone(), attach.clone(), FAILED);
    if name.len() > MAX_NAME {
        request.server.metrics.sign_in("wrong");
        request.reply(&answer(name, attach, WRONG));
        return;
    }
    let attempts = request.server.attempts.clone();
    let metrics = request.server.metrics.clone();
    request.query_or(
        Access::Free,
        move |store| {
            // The table is whole even if another thread panicked with it.
            let attempts = || attempts.lock().unwrap_or_else(PoisonError::into_inner);
            if attempts().is_locked(&name, Instant::now()) {
                metrics.sign_in("locked");
                return Ok(answer(name, attach, LOCKED));
            }
            // A store that cannot tell is an error here and no failed attempt.
            match store.validate(&name, &password)? {
                Validation::Accepted(user) => {
                    metrics.sign_in("accepted");
                    attempts().succeeded(&name);
                    let mut accepted = answer(name, attach, ACCEPTED);
                    accepted.user_info = Some(card(*user));
                    Ok(accepted)
                }
                Validation::Refused => {
                    metrics.sign_in("wrong");
                    attempts().failed(&name, Instant::now());
                    Ok(answer(name, attach, WRONG))
                }
            }
        },
        Some(&otherwise),
    );
}

fn answer(user_name: String, attach_data: Option<Bytes>, (result_code, text): (u32, &str)) -> ImValidateRsp {
    ImValidateRsp { user_name, result_code, result_string: Some(text.to_owned()), user_info: None, attach_data }
}

/// The two fields of a request that make an answer find its way.
#[derive(Clone, PartialEq, Message)]
struct Fragment {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(bytes = "bytes", optional, tag = "20")]
    attach: Option<Bytes>,
}

/// What can be read of a body that does not parse.
fn salvage(body: &[u8]) -> Fragment {
    let mut fragment = Fragment::default();
    // Fails like the whole, but keeps what stands before the damage.
    let _ = fragment.merge(body);
    fragment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_cookie_are_saved_from_a_damaged_body() {
        // Field 2 (the password) is no UTF-8.
        let body = b"\x0a\x05alice\x12\x01\xff\xa2\x01\x03abc";
        assert!(ImValidateReq::decode(&body[..]).is_err());
        let Fragment { name, attach } = salvage(body);
        assert_eq!((&name[..], attach.as_deref()), (&b"alice"[..], Some(&b"abc"[..])));
        assert_eq!(&salvage(b"\x0a\x05alice\x12\x7f").name[..], b"alice");
        assert_eq!(salvage(b"\xff\xff"), Fragment::default());
    }
}
