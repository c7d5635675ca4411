//! Jobs on a domain and on its disks.

use api::{Answer, DomainBlockOps, Reply, consts::JobType, remote};

use super::{Asked, only};
use crate::{Control, errors};

/// Statistics of the last job that ended, not of the one under way.
const COMPLETED: u32 = 1;
/// And leave it to be asked for again.
const KEEP_COMPLETED: u32 = 2;

impl DomainBlockOps for Control {
    fn domain_get_job_info(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetJobInfoArgs,
    ) -> Answer<remote::DomainGetJobInfoRet> {
        let id = self.running(&args.dom)?;
        Ok(self.job_of(id, false, true)?.ret().into())
    }

    fn domain_get_job_stats(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetJobStatsArgs,
    ) -> Answer<remote::DomainGetJobStatsRet> {
        only(args.flags, COMPLETED | KEEP_COMPLETED, "virDomainGetJobStats")?;
        let (completed, keep) = (args.flags & COMPLETED != 0, args.flags & KEEP_COMPLETED != 0);
        let uuid = self.known(&args.dom)?;
        let run = self.objects.run_of(&uuid);
        match run {
            Ok(run) => Ok(self.job_of(run.0, completed, keep)?.stats().into()),
            // Of a finished job also a domain that is off may tell.
            Err(_) if completed => {
                Ok(remote::DomainGetJobStatsRet { r#type: JobType::None.number(), params: Vec::new() }.into())
            }
            Err(refusal) => Err(errors::refusal(&refusal)),
        }
    }

    fn domain_abort_job(&mut self, cx: &mut Asked, args: remote::DomainAbortJobArgs) -> Answer<()> {
        let id = self.running(&args.dom)?;
        self.abort(cx, id, &args.dom.name, Reply::DomainAbortJob)
    }

    fn domain_get_block_job_info(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetBlockJobInfoArgs,
    ) -> Answer<remote::DomainGetBlockJobInfoRet> {
        only(args.flags, 1, "virDomainGetBlockJobInfo")?;
        self.running(&args.dom)?;
        Ok(remote::DomainGetBlockJobInfoRet::default().into())
    }
}
