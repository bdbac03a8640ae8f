//! Users and departments: 0x0208, 0x0204, 0x0210.
//!
//! A pull that does not fit one answer is cut between two change stamps, and the answer's
//! `latest_update_time` is the last stamp in it. The client stores that and its next pull goes on
//! from there: old clients at their next sign-in, newer ones at once, until the time stays the same.
//! Several answers to one request would be shorter for a client that takes them, but one that
//! takes only the first would never see the rest.

use tt_proto::im::base_define::{DepartInfo, DepartmentStatusType, UserInfo};
use tt_proto::im::buddy::{
    ImAllUserReq, ImAllUserRsp, ImDepartmentReq, ImDepartmentRsp, ImUsersInfoReq, ImUsersInfoRsp,
};
use tt_proto::pdu::MAX_TO_CLIENT;

use super::{Request, cut};
use crate::lanes::Access;
use crate::store::{Department, User};

/// Ids in one request for user cards; more are not looked up.
const MAX_IDS: usize = 1_000;
/// Bytes of cards in one answer: what the header, the cookie and the other fields leave.
const BUDGET: usize = MAX_TO_CLIENT - 4_096;

pub(super) fn all_users(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImAllUserReq>() else { return };
    request.query(Access::Free, move |store| {
        let page = store.users_changed_since(query.latest_update_time, BUDGET)?;
        Ok(ImAllUserRsp {
            user_id: query.user_id,
            latest_update_time: page.latest,
            user_list: page.items.into_iter().map(card).collect(),
            attach_data: query.attach_data,
        })
    });
}

pub(super) fn users_info(request: &mut Request<'_>) {
    let Some(mut query) = request.body::<ImUsersInfoReq>() else { return };
    request.query(Access::Free, move |store| {
        query.user_id_list.truncate(MAX_IDS);
        let cards = store.users_by_ids(&query.user_id_list)?.into_iter().map(card).collect();
        let mut answer =
            ImUsersInfoRsp { user_id: query.user_id, user_info_list: Vec::new(), attach_data: query.attach_data };
        answer.user_info_list = cut(&answer, cards);
        Ok(answer)
    });
}

pub(super) fn departments(request: &mut Request<'_>) {
    let Some(query) = request.body::<ImDepartmentReq>() else { return };
    request.query(Access::Free, move |store| {
        let page = store.departments_changed_since(query.latest_update_time, BUDGET)?;
        Ok(ImDepartmentRsp {
            user_id: query.user_id,
            latest_update_time: page.latest,
            dept_list: page.items.into_iter().map(department).collect(),
            attach_data: query.attach_data,
        })
    });
}

/// A user as clients see one.
pub(super) fn card(user: User) -> UserInfo {
    UserInfo {
        user_id: user.id,
        user_gender: user.gender,
        user_nick_name: user.nick,
        avatar_url: user.avatar,
        department_id: user.department,
        email: user.email,
        user_real_name: user.name,
        user_tel: user.phone,
        user_domain: user.domain,
        status: user.status as u32,
        sign_info: Some(user.sign_info),
    }
}

fn department(department: Department) -> DepartInfo {
    let status =
        if department.deleted { DepartmentStatusType::DeptStatusDelete } else { DepartmentStatusType::DeptStatusOk };
    DepartInfo {
        dept_id: department.id,
        priority: department.priority,
        dept_name: department.name,
        parent_dept_id: department.parent,
        dept_status: status.into(),
    }
}
