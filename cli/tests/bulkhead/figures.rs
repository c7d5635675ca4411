//! The verbs that show figures or change one value.

use crate::common::{Bench, text};
use serde_json::json;

fn gives(arguments: &[&str], stdout: &str) {
    Bench::new().run(arguments).gave(&text(stdout));
}

#[test]
fn virtual_cpus_are_counted() {
    gives(
        &["vcpucount", "test"],
        "
        maximum      config     2
        maximum      live       2
        current      config     2
        current      live       2
        ",
    );
    gives(&["vcpucount", "test", "--live"], "2\n");
    gives(&["vcpucount", "test", "--maximum", "--config"], "2\n");
    assert_eq!(Bench::new().json(&["vcpucount", "test", "--live"])["current_live"], json!(2));
    gives(&["maxvcpus"], "32\n");
}

#[test]
fn figures_are_the_driver_s() {
    gives(
        &["dommemstat", "test"],
        "actual 2097152\nswap_in 0\nswap_out 0\nmajor_fault 0\nminor_fault 0\nunused 1048576\navailable 2097152\n\
         usable 1048576\nlast_update 627319920\ndisk_caches 262144\nhugetlb_pgalloc 0\nhugetlb_pgfail 0\nrss 1048576\n",
    );
    gives(&["domstats", "--state", "test"], "Domain: 'test'\n  state.state=1\n  state.reason=0\n\n");
    gives(&["domcontrol", "test"], "ok\n");
    gives(&["domblkerror", "test"], "No errors found\n");
    gives(&["domjobinfo", "test"], "Job type:  None\n");
    let stats = Bench::new().json(&["domstats", "--state", "--list-active"]);
    assert_eq!(stats[0]["stats"], json!({ "state.state": 1, "state.reason": 0 }));
    let vcpus = Bench::new().json(&["vcpuinfo", "test"]);
    assert_eq!((&vcpus[1]["vcpu"], &vcpus[1]["state"]), (&json!(1), &json!("running")));
}

#[test]
fn the_host_s_memory_and_processors_are_shown() {
    gives(&["nodememstats"], "total:  3145728 KiB\nfree:   1048576 KiB\n");
    gives(&["freecell"], "Total:  1048576 KiB\n");
    gives(&["freecell", "1"], "1:  524288 KiB\n");
    gives(&["freecell", "--all"], "0:      524288 KiB\n1:      524288 KiB\nTotal:  1048576 KiB\n");
    gives(&["nodecpumap"], "CPUs present:  8\nCPUs online:   3\nCPU map:       y-y-y---\n");
}

#[test]
fn values_are_changed_with_virsh_s_words() {
    for (arguments, sentence) in [
        (["setvcpus", "test", "1"].as_slice(), "Domain 'test' has a new number of virtual CPUs\n"),
        (&["setmem", "--size", "1GiB", "test"], "Domain 'test' has a new memory size\n"),
        (&["setmem", "--size", "1GiB", "--domain", "test"], "Domain 'test' has a new memory size\n"),
        (&["setmaxmem", "test", "9GiB", "--config"], "Domain 'test' has a new maximum memory size\n"),
        (&["desc", "test", "a", "web", "server"], "Domain 'test' has a new description\n"),
        (&["desc", "test", "--title", "--new-desc", "web"], "Domain 'test' has a new title\n"),
        (&["send-key", "test", "KEY_LEFTCTRL", "0x1e"], "Domain 'test' received the keys\n"),
    ] {
        gives(arguments, sentence);
    }
    gives(&["desc", "test"], "No description for domain: test\n");
    assert_eq!(Bench::new().run(&["setmem", "test", "lots"]).code, Some(2));
    assert_eq!(Bench::new().run(&["send-key", "test", "KEY_NOPE"]).code, Some(2));
    assert_eq!(Bench::new().run(&["-r", "desc", "test", "x"]).code, Some(5));
}

#[test]
fn a_value_that_cannot_be_changed_is_named() {
    Bench::new().run(&["domrename", "test", "other"]).failed(
        1,
        &text(
            "
            error: cannot rename domain 'test'
              caused by: Requested operation is not valid: cannot rename active domain
              hint: shut it down first
            ",
        ),
    );
}

#[test]
fn a_document_to_translate_is_a_domain_s_or_a_file() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["domxml-to-native", "qemu-argv"]).code, Some(2));
    bench
        .run(&["domxml-to-native", "qemu-argv", "--xml", "nope.xml"])
        .failed(1, "error: cannot read 'nope.xml'\n  caused by: No such file or directory (os error 2)\n");
}
