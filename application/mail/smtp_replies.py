"""What the answer of a mail server means for a mail: does it wait, or has it failed?

By the enhanced status code (RFC 3463 and its registry) where the server gives one that says something, else by its
words, else by the code and by what it answers (RFC 5321, section 4.2). What nobody can tell waits.
"""

import re
from enum import StrEnum


class Phase(StrEnum):
    """What the server answers."""

    CONNECT = "the connection"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    END = "the end of the data"


class Trouble(StrEnum):
    """Whom a refusal concerns, and so what becomes of the mail."""

    LATER = "later"  # nobody: it waits
    DESK = "desk"  # whoever runs the desk or its mail server: it waits, and `doctor` says so
    RECIPIENT = "recipient"  # the client's address: it has failed, until the address is another
    CONTENT = "content"  # this very mail: it has failed


LATER, DESK, RECIPIENT, CONTENT = Trouble


class MailRefused(Exception):
    """The mail server said no: to what, with which code, in which words."""

    def __init__(self, phase: Phase, code: int, text: bytes | str) -> None:
        self.phase, self.code = phase, code
        self.text = text.decode(errors="replace") if isinstance(text, bytes) else text
        super().__init__(f"{code} {' '.join(self.text.split())} (in answer to {phase})")


# By class 5 enhanced codes: subject, then what differs from its subject.
SUBJECTS = {"1": RECIPIENT, "2": RECIPIENT, "3": DESK, "4": DESK, "5": DESK, "6": CONTENT, "7": DESK}
DETAILS = {
    "1.7": DESK,  # the sender's address
    "1.8": DESK,
    "2.2": DESK,  # mailbox full: quota
    "2.3": CONTENT,  # too long for the mailbox
    "3.4": CONTENT,  # too big for the system
    "7.2": RECIPIENT,  # a list that does not take it
    "7.16": CONTENT,  # too big for its priority
    "7.17": RECIPIENT,  # the mailbox has another owner
    "7.18": RECIPIENT,  # the domain has
}
UNSPECIFIC = re.compile(r"0\.\d+|5\.0|7\.[01]")  # codes that are given for anything: the words say more

# By words, where there is no code that says something; the first that fits.
WORDS = (
    (RECIPIENT, r"user unknown|unknown user|no such (user|mailbox|recipient)|(user|mailbox) (not found|unavailable)"),
    (RECIPIENT, r"(recipient|user|mailbox|account).* (does not|doesn't) exist"),
    (DESK, r"relay|authenticat|log ?in|\bhelo\b|\behlo\b|greeting|\btls\b|\bspf\b|\bdkim\b|\bdmarc\b|\bptr\b"),
    (DESK, r"block|black|listed|reputation|denied|not permitted|not allowed|unauthori[sz]ed|prohibited|policy"),
    (DESK, r"later|too many|rate|quota|storage|space|sender|reverse|\bip\b"),
    (CONTENT, r"content|too (big|large|long)|size|\bspam\b|virus|malware|phish|header"),
)

# By code alone: at RCPT and DATA these concern the recipient; at the end of the data all but these concern the content.
OF_RECIPIENT = {550, 551, 553, 556}
OF_DESK = {*range(500, 505), 521, 530, 534, 535, 538, 552, 555}
_ENHANCED = re.compile(r"#?(?P<class>[245])\.(?P<code>\d{1,3}\.\d{1,3})\b")


def trouble_with(refusal: MailRefused) -> Trouble:
    """Whom a refusal concerns."""
    enhanced = _ENHANCED.match(refusal.text.lstrip())
    if not 500 <= refusal.code <= 599 or (enhanced and enhanced["class"] == "4"):
        return LATER
    found = _by_code(enhanced["code"] if enhanced and enhanced["class"] == "5" else "0.0", refusal)
    if refusal.phase in (Phase.RCPT, Phase.DATA, Phase.END):
        return found
    of_this_mail = refusal.phase is Phase.MAIL and found is CONTENT  # before RCPT nobody spoke of the recipient
    return CONTENT if of_this_mail else DESK


def _by_code(code: str, refusal: MailRefused) -> Trouble:
    if UNSPECIFIC.fullmatch(code):
        words = next((trouble for trouble, form in WORDS if re.search(form, refusal.text, re.IGNORECASE)), None)
        return words or (DESK if code.startswith("7") else _by_phase(refusal))
    return DETAILS.get(code) or SUBJECTS.get(code.partition(".")[0]) or _by_phase(refusal)


def _by_phase(refusal: MailRefused) -> Trouble:
    if refusal.phase is Phase.END:
        return DESK if refusal.code in OF_DESK else CONTENT
    return RECIPIENT if refusal.code in OF_RECIPIENT else DESK
