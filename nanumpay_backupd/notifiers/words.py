"""The words of messages in Korean and English: titles, sentences, labels, causes. No layout, nothing decided here.

A cause comes in the English of whoever found it. In Korean its code says what it is, and the English words stay as the
detail, because they are what the journal and a search engine know.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nanumpay_backupd.events import Event

__all__ = ["CAUSES", "LANGUAGES", "Language", "Telling", "language"]


class Telling(NamedTuple):
    """One event: its title, that of its end (empty: it lasts not), and a plain sentence about what it means.

    In titles ``{job}`` is the job, ``{channel}`` a channel.
    """

    title: str
    ended: str
    sentence: str


class Language(NamedTuple):
    """All words of one language."""

    events: dict[Event, Telling]
    labels: dict[str, str]
    reminder: str
    changed: str
    times: str
    summary: str
    more: str
    test: str
    nobody: str
    """Stands for the job where something concerns none."""


_ENGLISH: Final = Language(
    events={
        Event.SUCCEEDED: Telling("backup of {job} succeeded", "", "A backup was made, read back, and is good."),
        Event.DEGRADED: Telling(
            "a copy of {job} is missing",
            "all copies of {job} are at their places again",
            "The backup on this host is good, but it could not be brought to every destination. It is tried again.",
        ),
        Event.FAILED: Telling(
            "backup of {job} failed",
            "backup of {job} works again",
            "The last backup did not succeed. Older backups are untouched.",
        ),
        Event.CLEANUP_FAILED: Telling(
            "old backups of {job} could not be deleted",
            "old backups of {job} are deleted again",
            "Retention could not delete what is to go. The backups are not at risk, but their place may fill up.",
        ),
        Event.VERIFY_SUCCEEDED: Telling(
            "copies of {job} verified", "", "All copies were read again and are what they were."
        ),
        Event.VERIFY_FAILED: Telling(
            "verification of {job} failed",
            "copies of {job} are verified again",
            "A copy is not what it was when it was made, or not every copy could be read.",
        ),
        Event.DRILL_SUCCEEDED: Telling(
            "restore drill of {job} succeeded",
            "",
            "A backup was restored into a scratch place and compared: the same came back.",
        ),
        Event.DRILL_FAILED: Telling(
            "restore drill of {job} failed",
            "restore drill of {job} works again",
            "A trial restore did not bring back what was backed up, or could not be made. "
            "Until one succeeds it is not certain that a restore would.",
        ),
        Event.RESTORE_SUCCEEDED: Telling("{job} was restored", "", "Somebody restored a backup."),
        Event.RESTORE_FAILED: Telling(
            "restore of {job} failed", "", "A restore failed; the reason says what state the database is in."
        ),
        Event.SLICES_FAILED: Telling(
            "changes of {job} are not being saved",
            "changes of {job} are being saved again",
            "What is written between two backups is not being saved. It is tried again.",
        ),
        Event.CHAIN_BROKEN: Telling(
            "changes of {job} cannot follow on",
            "changes of {job} follow on again",
            "The changes cannot follow on from those that were saved. A new full backup is made by itself; "
            "the moments in between cannot be restored.",
        ),
        Event.UNHEALTHY: Telling(
            "{job} needs attention",
            "{job} is well again",
            "A promise about the backups is not kept, or something that they need is not well.",
        ),
        Event.DISK_LOW: Telling(
            "the disk is nearly full",
            "there is room on the disk again",
            "Hardly any room is left in the backups folder. The next backup may fail.",
        ),
        Event.SETTINGS_REFUSED: Telling(
            "settings were refused",
            "settings are accepted again",
            "Settings cannot be used. The last good ones stay in force.",
        ),
        Event.CHANNEL_FAILED: Telling(
            "messages by {channel} do not arrive",
            "messages by {channel} arrive again",
            "What is sent that way does not arrive.",
        ),
        Event.SUMMARY: Telling("{count} messages in one", "", "There was much to tell in a short time."),
        Event.REPORT: Telling("backup report of {days} days", "", ""),
        Event.TEST: Telling("test message", "", "Messages of nanumpay-backupd arrive here."),
    },
    labels={
        "job": "Job",
        "time": "Time",
        "since": "Since",
        "until": "Until",
        "run": "Run",
        "backup": "Backup",
        "host": "Host",
        "code": "Code",
        "reason": "Reason",
        "detail": "Detail",
        "was": "It was",
        "hint": "What to do",
        "took": "Took",
        "size": "Size",
        "documents": "Documents",
        "items": "Items",
        "copies": "Copies",
        "found": "Found",
        "warning": "Warning",
        "more": "More",
    },
    reminder="still: ",
    changed="now also: ",
    times="shown {count} times",
    summary="and {more} more",
    more="backupctl show {run}",
    test="Sent to channel {channel} by backupctl notify test.",
    nobody="the backup system",
)

_KOREAN: Final = Language(
    events={
        Event.SUCCEEDED: Telling("{job} 백업 성공", "", "백업을 만들고 다시 읽어 확인했으며 이상이 없습니다."),
        Event.DEGRADED: Telling(
            "{job} 백업 사본 누락",
            "{job} 백업 사본이 모두 제자리에 있음",
            "이 서버의 백업은 정상이지만 모든 저장소로 보내지 못했습니다. 자동으로 다시 시도합니다.",
        ),
        Event.FAILED: Telling(
            "{job} 백업 실패",
            "{job} 백업 정상화",
            "마지막 백업이 성공하지 못했습니다. 이전 백업은 그대로 있습니다.",
        ),
        Event.CLEANUP_FAILED: Telling(
            "{job} 오래된 백업 정리 실패",
            "{job} 오래된 백업 정리 정상화",
            "보관 정책에 따라 지울 백업을 지우지 못했습니다. 백업은 안전하지만 저장 공간이 부족해질 수 있습니다.",
        ),
        Event.VERIFY_SUCCEEDED: Telling(
            "{job} 백업 검증 성공", "", "모든 사본을 다시 읽어 확인했으며 이상이 없습니다."
        ),
        Event.VERIFY_FAILED: Telling(
            "{job} 백업 검증 실패",
            "{job} 백업 검증 정상화",
            "사본이 만들어졌을 때와 다르거나, 읽지 못한 사본이 있습니다.",
        ),
        Event.DRILL_SUCCEEDED: Telling(
            "{job} 복원 훈련 성공", "", "백업을 임시 장소에 복원해 비교했으며 내용이 일치했습니다."
        ),
        Event.DRILL_FAILED: Telling(
            "{job} 복원 훈련 실패",
            "{job} 복원 훈련 정상화",
            "시험 복원의 결과가 백업과 다르거나 복원을 시험하지 못했습니다. "
            "훈련이 성공할 때까지는 복원할 수 있다고 확신할 수 없습니다.",
        ),
        Event.RESTORE_SUCCEEDED: Telling("{job} 복원 완료", "", "누군가 백업을 복원했습니다."),
        Event.RESTORE_FAILED: Telling(
            "{job} 복원 실패", "", "복원이 실패했습니다. 데이터베이스의 상태는 아래 내용을 확인하십시오."
        ),
        Event.SLICES_FAILED: Telling(
            "{job} 변경분 저장 중단",
            "{job} 변경분 저장 재개",
            "백업 사이의 변경 내용이 저장되지 않고 있습니다. 자동으로 다시 시도합니다.",
        ),
        Event.CHAIN_BROKEN: Telling(
            "{job} 변경분 연결 끊김",
            "{job} 변경분 연결 복구",
            "변경 내용이 앞서 저장한 것과 이어지지 않습니다. 새 전체 백업이 자동으로 만들어지며, "
            "그 사이의 시점으로는 복원할 수 없습니다.",
        ),
        Event.UNHEALTHY: Telling(
            "{job} 확인 필요",
            "{job} 상태 정상화",
            "백업에 대한 약속이 지켜지지 않거나, 백업에 필요한 것에 문제가 있습니다.",
        ),
        Event.DISK_LOW: Telling(
            "디스크 공간 부족",
            "디스크 공간 확보됨",
            "백업 폴더에 남은 공간이 거의 없습니다. 다음 백업이 실패할 수 있습니다.",
        ),
        Event.SETTINGS_REFUSED: Telling(
            "설정 거부됨",
            "설정 정상화",
            "설정을 사용할 수 없습니다. 마지막으로 정상이었던 설정이 계속 적용됩니다.",
        ),
        Event.CHANNEL_FAILED: Telling(
            "알림 경로 {channel} 장애",
            "알림 경로 {channel} 복구",
            "이 경로로 보낸 알림이 도착하지 않습니다.",
        ),
        Event.SUMMARY: Telling("알림 {count}건 모음", "", "짧은 시간에 알릴 내용이 많아 하나로 모았습니다."),
        Event.REPORT: Telling("최근 {days}일 백업 보고서", "", ""),
        Event.TEST: Telling("시험 메시지", "", "nanumpay-backupd의 알림이 이곳에 도착합니다."),
    },
    labels={
        "job": "작업",
        "time": "시각",
        "since": "시작",
        "until": "종료",
        "run": "실행",
        "backup": "백업",
        "host": "서버",
        "code": "코드",
        "reason": "원인",
        "detail": "상세",
        "was": "내용",
        "hint": "조치",
        "took": "소요 시간",
        "size": "크기",
        "documents": "문서 수",
        "items": "항목 수",
        "copies": "사본",
        "found": "결과",
        "warning": "주의",
        "more": "자세히",
    },
    reminder="계속됨: ",
    changed="새 원인: ",
    times="{count}회 발생",
    summary="외 {more}건",
    more="backupctl show {run}",
    test="backupctl notify test 명령으로 {channel} 경로에 보냈습니다.",
    nobody="백업 시스템",
)

LANGUAGES: Final = {"en": _ENGLISH, "ko": _KOREAN}

CAUSES: Final = {
    "backup-odd": "백업에 데이터가 빠졌거나 평소보다 훨씬 많습니다.",
    "backup-old": "검증된 최신 백업이 너무 오래되었거나 없습니다.",
    "disk-filling": "디스크가 곧 가득 찹니다.",
    "expiring": "키, 인증서 또는 접근 권한이 곧 만료되거나 만료되었습니다.",
    "size-exceeded": "사본이 정해진 크기보다 많은 공간을 차지합니다.",
    "slices-late": "변경 내용의 저장이 늦어지고 있습니다.",
    "verify-overdue": "사본을 너무 오래 다시 읽지 않았습니다.",
    "artifact-missing": "백업 파일이 다시 읽기 전에 삭제되었습니다.",
    "busy": "같은 작업이 이미 실행 중입니다.",
    "catalog-damaged": "카탈로그가 손상되었습니다. 백업은 그대로 있습니다.",
    "catalog-unusable": "카탈로그를 열거나 쓸 수 없습니다.",
    "chain-broken": "변경 내용이 이어지지 않습니다. oplog가 이미 덮어써졌을 수 있습니다.",
    "chain-missing": "변경 내용을 이어 갈 전체 백업이 아직 없습니다.",
    "clock-doubted": "서버 시계를 믿을 수 없습니다. 그동안 오래되었다는 이유로 백업을 지우지 않습니다.",
    "config-invalid": "설정 파일에 잘못된 값이 있습니다.",
    "copy-unusable": "믿을 수 있는 사본이 없습니다.",
    "fleet-unreachable": "여러 서버가 함께 쓰는 MongoDB 컬렉션을 읽거나 쓸 수 없습니다.",
    "source-lagging": "모든 보조 노드의 복제가 너무 늦어 읽을 수 없습니다.",
    "lease-lost": "이 서버가 더 이상 백업 담당이 아니어서 중단했습니다. 담당 서버가 이어서 만듭니다.",
    "not-holder": "이 작업은 지금 다른 서버가 맡고 있습니다.",
    "deadline": "정해진 시간 안에 끝나지 않아 중단되었습니다. 다시 시도합니다.",
    "destination-auth": "저장소 로그인이 거부되었습니다.",
    "destination-denied": "저장소에서 필요한 권한이 없습니다.",
    "object-locked": "저장소가 이 파일의 삭제를 잠가 두었습니다(Object Lock).",
    "encryption-off": "암호화된 목록이 필요한 복사본이 남아 있는데 작업의 암호화가 꺼져 있습니다.",
    "key-wrong": "설정된 키로는 이 백업을 열 수 없습니다. 백업이 손상되었다는 뜻은 아닙니다.",
    "key-missing": "이 백업을 열 키가 설정되어 있지 않습니다.",
    "recipient-unusable": "암호화에 쓸 공개 키를 사용할 수 없습니다.",
    "destination-failed": "저장소가 오류를 돌려주었습니다.",
    "destination-full": "저장소에 남은 공간이 없습니다.",
    "destination-mismatch": "전송된 내용이 보낸 내용과 다릅니다.",
    "relay-failed": "다른 저장소에 있는 사본을 가져올 수 없습니다.",
    "destination-not-found": "저장소의 버킷이나 폴더가 없습니다.",
    "destination-hostkey": "저장소 서버의 SSH 호스트 키가 알려진 것과 다릅니다.",
    "extra-missing": "저장소를 쓰는 데 필요한 라이브러리가 설치되어 있지 않습니다.",
    "destination-tls": "저장소의 인증서를 신뢰할 수 없습니다.",
    "destination-unreachable": "저장소에 연결할 수 없습니다.",
    "source-busy": "Percona Backup for MongoDB가 다른 작업을 하고 있습니다.",
    "source-loading": "백업할 서버가 아직 데이터를 불러오는 중입니다.",
    "source-too-old": "백업할 서버의 버전이 너무 오래되었습니다.",
    "hook-failed": "작업 전후에 실행하는 명령이 실패했습니다.",
    "source-damaged": "백업할 데이터 자체가 손상되어 있습니다.",
    "drill-failed": "복원한 내용이 백업과 다릅니다.",
    "drill-impossible": "복원을 시험할 곳이 없습니다.",
    "dump-incomplete": "데이터가 모두 백업되지 않았습니다.",
    "folder-unusable": "백업 폴더를 사용할 수 없습니다.",
    "full-too-old": "마지막 전체 백업이 너무 오래되어 변경 내용을 이어 갈 수 없습니다.",
    "internal": "프로그램 결함입니다. 로그를 확인해 알려 주십시오.",
    "interrupted": "실행이 중간에 끊겼습니다.",
    "memory-limit": "정해진 것보다 많은 메모리를 써서 중단되었습니다.",
    "metrics-failed": "모니터링용 지표를 제공할 수 없습니다.",
    "no-oplog": "서버에 oplog가 없습니다. 복제 세트가 필요합니다.",
    "no-space": "디스크 공간이 부족합니다.",
    "notify-address": "알림 주소를 이해할 수 없습니다.",
    "notify-failed": "알림을 보내지 못했습니다.",
    "notify-timeout": "알림 서비스가 제시간에 응답하지 않았습니다.",
    "object-missing": "저장소에 파일이 없습니다.",
    "object-damaged": "저장소에 보관된 데이터가 손상되어 있습니다.",
    "destination-busy": "다른 작업이 저장소를 사용하고 있습니다.",
    "oplog-short": "oplog가 작아 변경 내용을 놓칠 수 있습니다.",
    "publish-failed": "완성된 백업을 디스크에 확정하지 못했습니다.",
    "restore-failed": "데이터를 되돌려 넣는 데 실패했습니다.",
    "restore-incomplete": "복원된 내용이 백업과 다릅니다.",
    "group-partial": "그룹의 백업 가운데 일부만 복원할 수 있습니다.",
    "scratch-failed": "복원 시험용 서버를 시작하지 못했습니다.",
    "settings-auth": "MongoDB 로그인 또는 설정 읽기 권한이 거부되었습니다.",
    "settings-failed": "MongoDB에서 설정을 읽지 못했습니다.",
    "settings-invalid": "저장된 백업 설정에 잘못된 값이 있습니다.",
    "settings-missing": "백업 설정을 가진 관리자가 없습니다.",
    "settings-unreachable": "MongoDB에 연결할 수 없습니다.",
    "settings-uri": "MongoDB 연결 문자열을 사용할 수 없습니다.",
    "source-auth": "백업할 서버에서 로그인 또는 권한이 거부되었습니다.",
    "source-empty": "백업할 데이터가 없습니다. 이름을 확인하십시오.",
    "source-failed": "백업할 데이터를 읽지 못했습니다.",
    "source-unreachable": "백업할 서버에 연결할 수 없습니다.",
    "swap-failed": "데이터베이스 교체가 실패해 되돌렸습니다.",
    "swap-unfinished": "데이터베이스 교체가 중간에 멈췄습니다.",
    "tool-failed": "백업 도구가 오류로 끝났습니다.",
    "tool-killed": "백업 도구가 강제로 종료되었습니다. 메모리가 부족했을 수 있습니다.",
    "tool-missing": "필요한 프로그램이 설치되어 있지 않습니다.",
    "tool-timeout": "백업 도구가 응답하지 않았습니다.",
    "tool-too-old": "필요한 프로그램의 버전이 서버보다 낮습니다.",
    "verify-checksum": "백업 파일의 체크섬이 다릅니다.",
    "verify-counts": "백업에 든 개수가 다릅니다.",
    "verify-failed": "백업 파일이 손상되었습니다.",
    "verify-size": "백업 파일의 크기가 다릅니다.",
    "verify-structure": "백업 파일의 구조가 손상되었습니다.",
    "out-of-resources": "메모리, 프로세스 또는 파일 디스크립터가 부족합니다.",
    "worker-start": "백업 프로세스를 시작하지 못했습니다.",
    "write-failed": "디스크에 쓰지 못했습니다.",
}
"""What the codes mean, in Korean."""


def language(code: str) -> Language:
    """Return the words of ``en`` or ``ko``."""
    return LANGUAGES[code]
