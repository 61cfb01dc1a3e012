//! What ran of each call, held against what its caller was told and had allowed. Pure: what happens comes in with its time.

use std::time::Duration;

use callboard_client::RetryBudget;
use callboard_common::Executed;
use tokio::time::Instant;

/// All calls of a run, by their numbers, and the accounts of their callers.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    calls: Vec<Call>,
    accounts: Vec<Account>,
    /// Those from this one on meet no fault.
    peace: Option<u64>,
}

/// How many calls there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) made: u64,
    /// They ended in an error.
    pub(super) failed: u64,
    /// Of these, their callers were told that they were not executed, ..
    pub(super) said_not_executed: u64,
    /// .. or that nobody knows.
    pub(super) said_unknown: u64,
    /// Their callers did not wait for their ends.
    pub(super) given_up: u64,
    /// Executed more than once, as they might be.
    pub(super) again: u64,
}

/// What is asked of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// It may be executed so often.
    pub(super) most: u32,
    /// Its handler ends in an error.
    pub(super) fails: bool,
    /// It goes by way of a center.
    pub(super) is_relayed: bool,
}

/// What a caller was told of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It has its answer.
    Answer,
    /// It has an error, after so many tries.
    Error { executed: Executed, tries: u32 },
    /// Nothing: it did not wait.
    Nothing,
}

#[derive(Debug)]
struct Call {
    account: usize,
    terms: Terms,
    began: u32,
    ended: u32,
    /// What its caller was told, and when.
    told: Option<(Told, Instant)>,
}

/// A caller from its start on.
#[derive(Debug)]
struct Account {
    budget: RetryBudget,
    since: Instant,
    calls: u64,
    /// So often a call was executed again.
    again: u64,
}

impl Ledger {
    /// A caller begins, with this budget.
    pub(super) fn account(&mut self, budget: RetryBudget, since: Instant) -> usize {
        self.accounts.push(Account { budget, since, calls: 0, again: 0 });
        self.accounts.len() - 1
    }

    /// A call is about to be made; gives its number.
    pub(super) fn open(&mut self, account: usize, terms: Terms) -> u64 {
        if let Some(account) = self.accounts.get_mut(account) {
            account.calls += 1;
        }
        self.calls.push(Call { account, terms, began: 0, ended: 0, told: None });
        self.calls.len() as u64 - 1
    }

    /// Calls from now on meet no fault.
    pub(super) fn is_peace(&mut self) {
        self.peace = Some(self.calls.len() as u64);
    }

    /// A handler begins a call, of which its provider knows this deadline.
    ///
    /// # Errors
    /// It may not.
    pub(super) fn begin(&mut self, number: u64, deadline: Option<Instant>, now: Instant) -> Result<(), String> {
        let in_peace = self.peace.is_some_and(|peace| number >= peace);
        let call = self.call(number)?;
        call.began += 1;
        let Call { account, terms, began, told, .. } = *call;
        if began > terms.most {
            return Err(format!("call {number} was executed {began} times"));
        }
        if let Some(late) =
            deadline.and_then(|deadline| now.checked_duration_since(deadline)).filter(|late| !late.is_zero())
        {
            return Err(format!("call {number} was executed {late:?} after its deadline"));
        }
        if let (true, Some(_), Some((_, over))) = (in_peace, deadline, told)
            && now.saturating_duration_since(over) > ON_ITS_WAY * (1 + u32::from(terms.is_relayed))
        {
            return Err(format!("call {number} was executed {:?} after its caller had given it up", now - over));
        }
        if began > 1 {
            let account = self.accounts.get_mut(account).ok_or("no such caller")?;
            account.again += 1;
            return account
                .allows(account.again, now)
                .map_err(|why| format!("call {number} was executed again: {why}"));
        }
        Ok(())
    }

    /// A handler has ended a call.
    ///
    /// # Errors
    /// There is no such call.
    pub(super) fn end(&mut self, number: u64) -> Result<(), String> {
        self.call(number).map(|call| call.ended += 1)
    }

    /// A caller is told what has become of its call, and counts so many repeats and hedges so far.
    ///
    /// # Errors
    /// It is not true, or the caller had no right to so many.
    pub(super) fn tell(&mut self, number: u64, told: Told, repeats: u64, now: Instant) -> Result<(), String> {
        let call = self.call(number)?;
        call.told = Some((told, now));
        call.is_true(told).map_err(|why| format!("call {number} {why}"))?;
        let account = call.account;
        self.accounts.get(account).ok_or("no such caller")?.allows(repeats, now)
    }

    /// What was said not to be executed was not, later either.
    ///
    /// # Errors
    /// It was.
    pub(super) fn check(&self) -> Result<(), String> {
        let is_wrong = |call: &Call| call.began > 0 && call.said() == Some(Executed::No);
        let wrong: Vec<_> = self.calls.iter().enumerate().filter(|(_, call)| is_wrong(call)).map(|(n, _)| n).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!("calls {wrong:?} were executed, and their callers were told that they were not"))
    }

    pub(super) fn totals(&self) -> Totals {
        let count = |counts: &dyn Fn(&Call) -> bool| self.calls.iter().filter(|call| counts(call)).count() as u64;
        Totals {
            made: self.calls.len() as u64,
            failed: count(&|call| call.said().is_some()),
            said_not_executed: count(&|call| call.said() == Some(Executed::No)),
            said_unknown: count(&|call| call.said() == Some(Executed::Unknown)),
            given_up: count(&|call| matches!(call.told, Some((Told::Nothing, _)))),
            again: count(&|call| call.began > 1),
        }
    }

    fn call(&mut self, number: u64) -> Result<&mut Call, String> {
        let call = usize::try_from(number).ok().and_then(|number| self.calls.get_mut(number));
        call.ok_or_else(|| format!("nobody has made call {number}"))
    }
}

impl Call {
    /// Whether this may be told now.
    fn is_true(&self, told: Told) -> Result<(), String> {
        let Self { terms: Terms { fails, .. }, began, ended, .. } = *self;
        match told {
            Told::Answer if ended == 0 => Err(String::from("was answered, but not executed")),
            Told::Answer if fails => Err(String::from("was answered, though its handler fails")),
            Told::Error { tries, .. } if began > tries => Err(format!("began {began} times with {tries} tries")),
            Told::Error { executed: Executed::Yes, .. } if ended == 0 => {
                Err(String::from("was not executed, and its caller was told that it was"))
            }
            Told::Error { executed: Executed::Yes, .. } if !fails => {
                Err(String::from("was executed, and its answer is lost"))
            }
            _ => Ok(()),
        }
    }

    /// What was said of whether it was executed, in an error.
    fn said(&self) -> Option<Executed> {
        match self.told {
            Some((Told::Error { executed, .. }, _)) => Some(executed),
            _ => None,
        }
    }
}

impl Account {
    /// Whether its budget has so many repeats by now: the reserve, its part of each call, and one a second.
    fn allows(&self, repeats: u64, now: Instant) -> Result<(), String> {
        let RetryBudget { percent, reserve, .. } = self.budget;
        let calls = self.calls * u64::from(percent) / 100;
        let time = if reserve > 0 { now.saturating_duration_since(self.since).as_secs() } else { 0 };
        // What calls and time have left over may make one more together.
        let allowed = calls + time + u64::from(reserve) + 1;
        if repeats <= allowed {
            return Ok(());
        }
        Err(format!("{repeats} repeats are over the budget of {allowed}, after {} calls", self.calls))
    }
}

/// Word that a call was given up takes so long at most where nothing stands still, with room for what is written in parts,
/// and as long again by way of a center, where a thread may be taken meanwhile.
const ON_ITS_WAY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    const NO: Told = Told::Error { executed: Executed::No, tries: 1 };
    const YES: Told = Told::Error { executed: Executed::Yes, tries: 1 };
    const UNKNOWN: Told = Told::Error { executed: Executed::Unknown, tries: 1 };
    const ONCE: Terms = Terms { most: 1, fails: false, is_relayed: false };
    const FAILS: Terms = Terms { most: 1, fails: true, is_relayed: false };

    /// A call that began and ended so often before its caller was told.
    fn outcome(terms: Terms, began: u32, ended: u32, told: Told) -> Result<(), String> {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let account = ledger.account(RetryBudget::default(), now);
        let call = ledger.open(account, terms);
        for _ in 0..began {
            ledger.begin(call, None, now)?;
        }
        for _ in 0..ended {
            ledger.end(call)?;
        }
        ledger.tell(call, told, 0, now)?;
        ledger.check()
    }

    #[test]
    fn what_is_told_is_held_against_what_ran() {
        let three = Terms { most: 3, fails: false, is_relayed: false };
        let rows = [
            (ONCE, 1, 1, Told::Answer, true),
            (ONCE, 1, 0, Told::Answer, false),
            (ONCE, 0, 0, Told::Answer, false),
            (FAILS, 1, 1, Told::Answer, false),
            (FAILS, 1, 1, YES, true),
            (FAILS, 1, 0, YES, false),
            (FAILS, 1, 1, UNKNOWN, true),
            (FAILS, 1, 1, NO, false),
            (ONCE, 1, 1, YES, false),
            (ONCE, 0, 0, NO, true),
            (ONCE, 1, 0, NO, false),
            (ONCE, 0, 0, UNKNOWN, true),
            (ONCE, 1, 0, UNKNOWN, true),
            (ONCE, 2, 2, Told::Answer, false),
            (ONCE, 1, 0, Told::Nothing, true),
            (three, 3, 1, Told::Answer, true),
            (three, 4, 1, Told::Answer, false),
            (three, 2, 0, UNKNOWN, false),
            (three, 2, 0, Told::Error { executed: Executed::Unknown, tries: 2 }, true),
        ];
        for (terms, began, ended, told, is_right) in rows {
            let outcome = outcome(terms, began, ended, told);
            assert_eq!(outcome.is_ok(), is_right, "{terms:?} {began} {ended} {told:?}: {outcome:?}");
        }
    }

    #[test]
    fn a_call_that_runs_after_it_was_said_not_to_is_found_at_the_end() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let account = ledger.account(RetryBudget::default(), now);
        let call = ledger.open(account, ONCE);
        assert_eq!(ledger.tell(call, NO, 0, now), Ok(()));
        assert_eq!((ledger.check(), ledger.begin(call, None, now)), (Ok(()), Ok(())));
        assert!(ledger.check().is_err());
        assert!(ledger.begin(call + 1, None, now).is_err() && ledger.end(call + 1).is_err());
    }

    #[test]
    fn nothing_begins_after_its_deadline_and_in_peace_not_after_it_was_given_up() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        // Its deadline at its provider, when it was given up, whether in peace, and when it begins.
        let rows = [
            (Some(100), None, true, 100, true),
            (Some(100), None, false, 101, false),
            (None, None, true, 101, true),
            (Some(500), Some(50), true, 70, true),
            (Some(500), Some(50), true, 71, false),
            (Some(500), Some(50), false, 71, true),
            (None, Some(50), true, 71, true),
        ];
        for (deadline, over, in_peace, begins, is_right) in rows {
            let mut ledger = Ledger::default();
            let account = ledger.account(RetryBudget::default(), now);
            if in_peace {
                ledger.is_peace();
            }
            let call = ledger.open(account, ONCE);
            if let Some(over) = over {
                ledger.tell(call, Told::Nothing, 0, at(over)).unwrap();
            }
            let began = ledger.begin(call, deadline.map(at), at(begins));
            assert_eq!(began.is_ok(), is_right, "{deadline:?} {over:?} {in_peace} {begins}: {began:?}");
        }
    }

    #[test]
    fn repeats_are_counted_here_and_as_the_caller_counts_them() {
        let now = Instant::now();
        let later = now + Duration::from_secs(2);
        let budget = RetryBudget { percent: 20, reserve: 1, most: 10 };
        let (mut ledger, terms) = (Ledger::default(), Terms { most: 3, fails: false, is_relayed: false });
        let account = ledger.account(budget, now);
        let calls: Vec<_> = (0..5).map(|_| ledger.open(account, terms)).collect();
        // One in reserve, one of the calls, and one of what is left over.
        assert_eq!(ledger.tell(calls[0], Told::Nothing, 3, now), Ok(()));
        assert!(ledger.tell(calls[0], Told::Nothing, 4, now).is_err());
        assert_eq!(ledger.tell(calls[0], Told::Nothing, 5, later), Ok(()));
        let mut ran = |call| ledger.begin(call, None, now);
        assert_eq!([0, 0, 0, 1, 1].map(|n| ran(calls[n])), [Ok(()), Ok(()), Ok(()), Ok(()), Ok(())]);
        assert!(ran(calls[1]).is_err(), "the fourth repeat");
        assert_eq!(ledger.totals(), Totals { made: 5, given_up: 1, again: 2, ..Totals::default() });
    }
}
