"""Sample data as the application stores it, for demo, tests and benchmark. What compares databases is in tests.compare.

Everything is worked out from a seed: the same seed gives the same documents, _ids included (only the server's own
buckets behind the time-series collection have ids of their own). The shapes cover what a
dump can stumble over: Korean text, dates, Decimal128, int32/int64/double, nested arrays, UUIDs and bytes; unique,
compound, partial, sparse, TTL, hashed, wildcard and collated indexes; a validator, a GridFS file, a time-series and a
capped collection, and a view.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

import gridfs
from bson import Binary, Decimal128, Int64, ObjectId
from pymongo import ASCENDING, DESCENDING, HASHED, IndexModel
from pymongo.collation import Collation
from pymongo.database import Database

from tests.compare import compare_databases, db_hash

__all__ = [
    "CAPPED_SIZE",
    "DEFAULT_BACKUP",
    "GRIDFS_NAME",
    "GRIDFS_SIZE",
    "Document",
    "Maker",
    "compare_databases",
    "create_collections",
    "db_hash",
    "load",
    "save_settings",
]

Document = dict[str, Any]

DEFAULT_BACKUP: Final[Document] = {
    "enabled": True,
    "frequency": "daily",
    "time": "02:00",
    "dayOfWeek": 0,
    "dayOfMonth": 1,
    "retention": {"count": 7, "days": 30, "compress": True},
    "storage": {
        "type": "ftp",
        "s3": {
            "region": "ap-northeast-2",
            "bucket": "",
            "accessKeyId": "",
            "secretAccessKey": "",
            "prefix": "nanumpay-backup/",
        },
        "ftp": {
            "host": "",
            "port": 21,
            "username": "",
            "password": "",
            "remotePath": "/backup/nanumpay",
            "secure": False,
        },
    },
}
"""What a fresh install of the application holds in ``systemSettings.backup``."""

CAPPED_SIZE: Final = 1 << 20
GRIDFS_NAME: Final = "2026년 3월 지급명세서.xlsx"
GRIDFS_SIZE: Final = 700_000

_EPOCH: Final = datetime(2025, 1, 6, tzinfo=UTC)
_FAMILY: Final = "김이박최정강조윤장임한오서신권황안송류전홍고문양손배백허유남심노하곽성차주우구"
_GIVEN: Final = (
    "민준 서준 도윤 예준 시우 하준 지호 주원 지후 준우 서연 서윤 지우 서현 하은 하윤 민서 지유 윤서 채원 영수 영호 "
    "정희 미경 경숙 순자 영자 정숙 성호 상훈 은주 미영 지훈 현우 동현 수빈 유진 혜진 은정"
).split()
_BANKS: Final = ("국민은행", "신한은행", "우리은행", "하나은행", "농협은행", "기업은행", "카카오뱅크", "토스뱅크")
_CITIES: Final = (
    "서울특별시 강남구",
    "부산광역시 해운대구",
    "대구광역시 수성구",
    "인천광역시 연수구",
    "경기도 성남시 분당구",
    "제주특별자치도 제주시",
)
_STREETS: Final = ("테헤란로", "중앙대로", "동대구로", "컨벤시아대로", "판교역로", "연북로", "세종대로", "광안해변로")
_INSURERS: Final = ("한화생명", "삼성생명", "교보생명", "DB손해보험", "현대해상")
_GRADES: Final = ("F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8")
_MEMOS: Final = (
    "",
    "",
    "",
    "통장 사본 확인 완료",
    "연락처 변경 요청",
    "보험 가입 증빙 대기 중",
    "지급 보류 해제 (관리자 확인)",
)


class Maker:
    """Makes documents, one after the other, from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._counter = 0
        self.planners = [(self.object_id(), self.name()) for _ in range(40)]

    def object_id(self, at: datetime = _EPOCH) -> ObjectId:
        """Make an id the way a driver does: time, a number of the process, a counter."""
        self._counter += 1
        seconds = int(at.timestamp()) + self._counter // 50
        return ObjectId(seconds.to_bytes(4, "big") + b"\x5c\x1a\x9e\x77\x02" + self._counter.to_bytes(3, "big"))

    def name(self) -> str:
        """Make a person's name, some with the letter that tells namesakes apart."""
        name = self.random.choice(_FAMILY) + self.random.choice(_GIVEN)
        return name + self.random.choice("ABCD") if self.random.random() < 0.1 else name

    def moment(self, days: int = 400) -> datetime:
        """Make a time with milliseconds, which is all that BSON keeps."""
        return _EPOCH + timedelta(milliseconds=self.random.randrange(days * 86_400_000))

    def won(self, low: int, high: int) -> Decimal128:
        """Make an amount in won, full hundreds, as an exact decimal."""
        return Decimal128(f"{self.random.randrange(low // 100, high // 100) * 100}.00")

    def digits(self, count: int) -> str:
        """Make a string of digits."""
        return f"{self.random.randrange(10**count):0{count}d}"

    def user(self, number: int) -> Document:
        """Make a member: about 0.8 kB."""
        pick = self.random
        planner, planner_name = pick.choice(self.planners)
        created = self.moment()
        grades = sorted(pick.sample(_GRADES, pick.randrange(1, 4)))
        return {
            "_id": self.object_id(created),
            "loginId": f"user{number:08d}",
            "name": self.name(),
            "status": pick.choice(("active", "active", "active", "inactive", "suspended")),
            "phone": f"010-{self.digits(4)}-{self.digits(4)}",
            "idNumber": f"{self.digits(6)}-{pick.choice('1234')}******",
            "bank": {"name": pick.choice(_BANKS), "account": f"{self.digits(3)}-{self.digits(6)}-{self.digits(2)}"},
            "address": {
                "postcode": self.digits(5),
                "city": pick.choice(_CITIES),
                "street": f"{pick.choice(_STREETS)} {pick.randrange(1, 400)}",
            },
            "grade": grades[-1],
            "gradeHistory": [
                {"type": "registration" if at == 0 else "upgrade", "toGrade": grade, "date": self.moment()}
                for at, grade in enumerate(grades)
            ],
            "plannerId": planner,
            "planner": planner_name,
            "parentId": self.object_id() if number % 7 else None,
            "position": pick.choice("LR"),
            "insurance": {
                "company": pick.choice(_INSURERS),
                "product": "무배당 종신보험",
                "premium": self.won(50_000, 400_000),
                "active": pick.random() < 0.8,
            },
            "consecutiveWeeks": pick.randrange(60),
            "ratio": pick.random(),
            "token": Binary.from_uuid(uuid.UUID(int=pick.getrandbits(128), version=4)),
            "memo": pick.choice(_MEMOS),
            "createdAt": created,
            "updatedAt": created + timedelta(hours=pick.randrange(1000)),
            "__v": 0,
        }

    def account(self, user: Document) -> Document:
        """Make the login of a member: about 0.3 kB."""
        return {
            "_id": self.object_id(user["createdAt"]),
            "loginId": user["loginId"],
            "userId": user["_id"],
            "passwordHash": "$2b$10$"
            + "".join(self.random.choices("./ABCDEFGHIJKLMNOPabcdefghijklmnop0123456789", k=53)),
            "email": f"{user['loginId']}@example.com",
            "isActive": user["status"] == "active",
            "loginAttempts": 0,
            "lockUntil": None,
            "lastLogin": self.moment(),
            "createdAt": user["createdAt"],
            "__v": 0,
        }

    def plan(self, user_id: ObjectId, user_name: str) -> Document:
        """Make a weekly payment plan with its instalments: 0.7 to 2 kB."""
        pick = self.random
        start = _EPOCH + timedelta(weeks=pick.randrange(50))
        count = pick.choice((3, 5, 10))
        amount = pick.randrange(240, 9000) * 100
        paid = pick.randrange(count + 1)
        return {
            "_id": self.object_id(start),
            "userId": user_id,
            "userName": user_name,
            "planType": pick.choice(("initial", "additional")),
            "generation": pick.randrange(1, 4),
            "baseGrade": pick.choice(_GRADES),
            "revenueMonth": start.strftime("%Y-%m"),
            "totalInstallments": count,
            "completedInstallments": paid,
            "installments": [
                {
                    "week": week + 1,
                    "weekNumber": (start + timedelta(weeks=week)).strftime("%G-W%V"),
                    "scheduledDate": start + timedelta(weeks=week, days=4),
                    "status": "paid" if week < paid else "pending",
                    "amount": Decimal128(f"{amount}.00"),
                    "tax": Decimal128(f"{amount * 33 / 1000:.2f}"),
                    "paidAt": start + timedelta(weeks=week, days=4, seconds=pick.randrange(36000))
                    if week < paid
                    else None,
                }
                for week in range(count)
            ],
            "totalAmount": Int64(amount * count),
            "planStatus": "completed" if paid == count else "active",
            "createdBy": "monthly_registration",
            "createdAt": start,
            "updatedAt": self.moment(),
            "__v": 0,
        }

    def commission(self, user: Document, month: str) -> Document:
        """Make a planner's commission for one member: about 0.4 kB."""
        return {
            "_id": self.object_id(user["createdAt"]),
            "plannerId": user["plannerId"],
            "plannerName": user["planner"],
            "userId": user["_id"],
            "userName": user["name"],
            "revenueMonth": month,
            "revenue": self.won(500_000, 2_000_000),
            "rate": 0.1,
            "commission": self.won(50_000, 200_000),
            "paid": self.random.random() < 0.7,
            "createdAt": self.moment(),
            "__v": 0,
        }

    def commission_plan(self, planner: tuple[ObjectId, str], number: int) -> Document:
        """Make a planner's weekly payment: about 0.5 kB."""
        start = _EPOCH + timedelta(weeks=number % 60)
        return {
            "_id": self.object_id(start),
            "plannerId": planner[0],
            "plannerName": planner[1],
            "weekNumber": start.strftime("%G-W%V"),
            "paymentDate": start + timedelta(days=4),
            "users": [
                {"name": self.name(), "amount": self.won(1000, 90_000)} for _ in range(self.random.randrange(1, 5))
            ],
            "total": self.won(10_000, 900_000),
            "status": self.random.choice(("pending", "paid")),
            "createdAt": start,
            "__v": 0,
        }


def create_collections(db: Database[Document]) -> None:
    """Create the collections that need options, the view, and every index."""
    amount = {"bsonType": "decimal"}
    schema = {"bsonType": "object", "required": ["plannerId", "commission"], "properties": {"commission": amount}}
    db.create_collection("plannercommissions", validator={"$jsonSchema": schema}, validationLevel="moderate")
    db.create_collection("planneraccounts", collation=Collation(locale="ko", strength=2))
    db.create_collection("activitylogs", capped=True, size=CAPPED_SIZE, max=1000)
    db.create_collection("systemmetrics", timeseries={"timeField": "at", "metaField": "host", "granularity": "minutes"})
    db.create_collection(
        "activeusers",
        viewOn="users",
        pipeline=[{"$match": {"status": "active"}}, {"$project": {"name": 1, "grade": 1, "planner": 1}}],
    )
    for collection, indexes in _indexes().items():
        db[collection].create_indexes(indexes)


def _indexes() -> dict[str, list[IndexModel]]:
    return {
        "admins": [IndexModel("loginId", unique=True)],
        "users": [
            IndexModel("loginId", unique=True),
            IndexModel([("plannerId", ASCENDING), ("createdAt", DESCENDING)]),
            IndexModel("grade", name="active_by_grade", partialFilterExpression={"status": "active"}),
            IndexModel("phone", sparse=True),
        ],
        "useraccounts": [
            IndexModel("loginId", unique=True),
            # No document has this field, so the server removes none of them while they are compared.
            IndexModel("resetIssuedAt", expireAfterSeconds=3600),
        ],
        "planneraccounts": [IndexModel("loginId", unique=True), IndexModel("name")],
        "monthlyregistrations": [IndexModel("monthKey", unique=True), IndexModel("registrations.userId")],
        "weeklypaymentplans": [
            IndexModel([("userId", ASCENDING), ("planType", ASCENDING), ("generation", ASCENDING)]),
            IndexModel([("installments.weekNumber", ASCENDING), ("installments.status", ASCENDING)]),
        ],
        "weeklypaymentsummaries": [IndexModel("weekNumber", unique=True), IndexModel([("byGrade.$**", ASCENDING)])],
        "plannercommissions": [IndexModel([("plannerId", HASHED)]), IndexModel([("revenueMonth", DESCENDING)])],
        "plannercommissionplans": [
            IndexModel([("plannerId", ASCENDING), ("weekNumber", ASCENDING)]),
            IndexModel("plannerName", collation=Collation(locale="ko", strength=1), name="planner_name_ko"),
        ],
    }


def load(db: Database[Document], scale: float = 1.0, seed: int = 20260301) -> dict[str, int]:
    """Fill an empty database and return the number of documents per collection; scale 1 is 9 MB in about a second."""
    maker = Maker(seed)
    create_collections(db)
    users = [maker.user(number) for number in range(max(20, round(2000 * scale)))]
    months = [f"2025-{month:02d}" for month in range(1, 13)]
    data: dict[str, Iterable[Document]] = {
        "admins": [_admin(maker, "admin"), _admin(maker, "staff", settings=False)],
        "users": users,
        "useraccounts": [maker.account(user) for user in users],
        "planneraccounts": [_planner_account(maker, *planner) for planner in maker.planners],
        "monthlyregistrations": [_month(maker, month, users[at::12][:200]) for at, month in enumerate(months)],
        "weeklypaymentplans": [maker.plan(user["_id"], user["name"]) for user in users for _ in range(2)],
        "weeklypaymentsummaries": [_summary(maker, week) for week in range(60)],
        "plannercommissions": [maker.commission(user, maker.random.choice(months)) for user in users],
        "plannercommissionplans": [
            maker.commission_plan(maker.planners[at % len(maker.planners)], at) for at in range(len(users))
        ],
        # More than fit, so that the oldest have made room: a dump must bring back the rest in their order.
        "activitylogs": [_activity(maker, number) for number in range(1200)],
        "systemmetrics": [_metric(maker, minute) for minute in range(600)],
    }
    for name, documents in data.items():
        for batch in _batches(documents, 2000):
            db[name].insert_many(batch)
    _store_file(db, maker)
    return {name: db[name].estimated_document_count() for name in data if name != "systemmetrics"} | {
        "systemmetrics": db["systemmetrics"].count_documents({}),
    }


def save_settings(db: Database[Document], backup: Document, login_id: str = "admin") -> None:
    """Save backup settings the way the application does: the whole ``systemSettings`` object of one admin is new."""
    settings = {"maintenanceMode": False, "backup": backup}
    now = datetime.now(UTC)
    result = db.admins.update_one({"loginId": login_id}, {"$set": {"systemSettings": settings, "updatedAt": now}})
    if result.matched_count != 1:
        raise LookupError(f"there is no admin {login_id!r}: load the sample data first")


def _admin(maker: Maker, login_id: str, *, settings: bool = True) -> Document:
    return {
        "_id": maker.object_id(),
        "loginId": login_id,
        "name": "시스템 관리자" if settings else "정산 담당자",
        "passwordHash": "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
        "permissions": ["full_access"] if settings else ["payment_manage", "report_view"],
        "isActive": True,
        "loginAttempts": 0,
        "lockUntil": None,
        **({"systemSettings": {"maintenanceMode": False, "backup": DEFAULT_BACKUP}} if settings else {}),
        "createdAt": _EPOCH,
        "updatedAt": _EPOCH,
        "__v": 0,
    }


def _planner_account(maker: Maker, planner: ObjectId, name: str) -> Document:
    return {
        "_id": planner,
        "loginId": f"planner{planner.generation_time:%y%m%d}{str(planner)[-6:]}",
        "name": name,
        "phone": f"010-{maker.digits(4)}-{maker.digits(4)}",
        "bankName": maker.random.choice(_BANKS),
        "baseCommission": maker.won(100_000, 500_000),
        "createdAt": _EPOCH,
        "__v": 0,
    }


def _month(maker: Maker, month: str, users: list[Document]) -> Document:
    revenue = len(users) * 1_000_000
    return {
        "_id": maker.object_id(),
        "monthKey": month,
        "registrationCount": len(users),
        "totalRevenue": Int64(revenue),
        "gradeDistribution": {grade: sum(user["grade"] == grade for user in users) for grade in _GRADES},
        "gradePayments": {grade: maker.won(24_000, 900_000) for grade in _GRADES},
        "registrations": [
            {
                "userId": user["_id"],
                "userName": user["name"],
                "registrationDate": user["createdAt"],
                "amount": 1_000_000.0,
            }
            for user in users
        ],
        "createdAt": _EPOCH,
        "__v": 0,
    }


def _summary(maker: Maker, week: int) -> Document:
    start = _EPOCH + timedelta(weeks=week)
    return {
        "_id": maker.object_id(start),
        "weekNumber": start.strftime("%G-W%V"),
        "weekDate": start + timedelta(days=4),
        "totalAmount": maker.won(1_000_000, 90_000_000),
        "byGrade": {grade: {"users": maker.random.randrange(200), "net": maker.won(0, 9_000_000)} for grade in _GRADES},
        "byPlanType": [["initial", maker.random.randrange(500)], ["additional", maker.random.randrange(100)]],
        "status": "completed" if week < 50 else "scheduled",
        "__v": 0,
    }


def _activity(maker: Maker, number: int) -> Document:
    return {
        "_id": maker.object_id(),
        "number": number,
        "action": maker.random.choice(("login", "excel_download", "payment_confirm", "settings_save")),
        "by": maker.name(),
        "at": _EPOCH + timedelta(minutes=number),
    }


def _metric(maker: Maker, minute: int) -> Document:
    at = _EPOCH + timedelta(minutes=minute)
    return {
        "_id": maker.object_id(at),
        "at": at,
        "host": f"web-{minute % 3}",
        "cpu": round(maker.random.random() * 100, 1),
        "rss": minute * 1000,
    }


def _store_file(db: Database[Document], maker: Maker) -> None:
    """Store one file as GridFS does; by hand, because its own writer makes new ids and dates each time."""
    content = maker.random.randbytes(GRIDFS_SIZE)
    size = gridfs.DEFAULT_CHUNK_SIZE
    file = {"_id": maker.object_id(), "filename": GRIDFS_NAME, "metadata": {"month": "2026-03", "by": maker.name()}}
    file |= {"chunkSize": size, "length": Int64(len(content)), "uploadDate": _EPOCH}
    chunks = [
        {"_id": maker.object_id(), "files_id": file["_id"], "n": number, "data": content[at : at + size]}
        for number, at in enumerate(range(0, len(content), size))
    ]
    db["documents.files"].create_index([("filename", ASCENDING), ("uploadDate", ASCENDING)])
    db["documents.chunks"].create_index([("files_id", ASCENDING), ("n", ASCENDING)], unique=True)
    db["documents.chunks"].insert_many(chunks)
    db["documents.files"].insert_one(file)


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    source = iter(documents)
    while batch := list(islice(source, size)):
        yield batch
