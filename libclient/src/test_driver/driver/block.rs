//! Jobs on a guest and on its disks. A mock guest is never at work on one.

use api::{Answer, DomainBlockOps, consts::JobType, remote};
use registry::jobs::JobRefusal;

use super::Context;
use crate::test_driver::machine::{ERRORS, Machine};

impl DomainBlockOps for Machine {
    fn domain_get_job_info(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetJobInfoArgs,
    ) -> Answer<remote::DomainGetJobInfoRet> {
        self.guest(&args.dom)?.running()?;
        Ok(remote::DomainGetJobInfoRet { r#type: JobType::None.number(), ..Default::default() }.into())
    }

    fn domain_abort_job(&mut self, _: &mut Context, args: remote::DomainAbortJobArgs) -> Answer<()> {
        self.guest(&args.dom)?.running()?;
        Err(JobRefusal::None.error(&ERRORS))
    }

    fn domain_get_job_stats(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetJobStatsArgs,
    ) -> Answer<remote::DomainGetJobStatsRet> {
        self.empty_list::<remote::DomainGetJobStatsArgs>(&args.dom, args.flags, 0x3)
    }

    fn domain_get_block_job_info(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetBlockJobInfoArgs,
    ) -> Answer<remote::DomainGetBlockJobInfoRet> {
        self.empty_list::<remote::DomainGetBlockJobInfoArgs>(&args.dom, args.flags, 0x1)
    }

    fn domain_get_disk_errors(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetDiskErrorsArgs,
    ) -> Answer<remote::DomainGetDiskErrorsRet> {
        self.empty_list::<remote::DomainGetDiskErrorsArgs>(&args.dom, args.flags, 0)
    }
}
