//! The reader of the tables: a mistake in a table ends the build with its place.

#[path = "../build/check.rs"]
mod check;
#[path = "../build/parse.rs"]
mod parse;
#[path = "../build/scan.rs"]
mod scan;
#[allow(dead_code)] // The generator uses more of a table than the tests look at.
#[path = "../build/table.rs"]
mod table;

#[cfg(test)]
mod tests {
    use super::table::{Access, Fault, Program, Type};
    use super::{check, parse};

    const HEAD: &str =
        "program remote 0x20 version 1\nconst STRING_MAX = 100\nstruct domain { id: int }\nfamily domain\n";

    fn read(rows: &str) -> Result<Program, Fault> {
        let program = parse::parse("t.api", &format!("{HEAD}{rows}"), &[])?;
        check::check(&program)?;
        Ok(program)
    }

    /// The fault of a table; its first row of interest is line 5.
    fn fault(rows: &str) -> String {
        read(rows).unwrap_err().to_string()
    }

    #[test]
    fn a_row_may_go_on_in_the_next_line() {
        let program = read(
            "# A comment.\n## What it does.\ncall 1 start(dom: domain?, names: string<7>) -> ()\n    write acl=a:b,c:d\n    \
             acl=e:f since=1.2.3 api=virStart\n",
        )
        .unwrap();
        let (op, call) = program.calls().next().unwrap();
        assert_eq!(op.docs, ["What it does."]);
        assert_eq!(call.acl, ["a:b", "c:d", "e:f"]);
        assert_eq!(op.args[1].ty, Type::List(Box::new(Type::String(100)), 7));
    }

    #[test]
    fn a_condition_names_its_field() {
        let program = read("call 1 a(flags: uint) -> () write_if=flags&1|8 acl=a:b since=1.2.3 api=virA\n").unwrap();
        let (_, call) = program.calls().next().unwrap();
        assert_eq!(call.access, Some(Access::WriteIfBits { field: "flags".to_owned(), mask: 9 }));
    }

    #[test]
    fn faults_name_file_and_line() {
        let call = |number: u32, name: &str| format!("call {number} {name}() -> () read acl=a:b since=1.0.0 api=x\n");
        let cases = [
            (call(1, "a").replace(" api=", " family=guest api="), "api/t.api:5: `guest` is no family of objects"),
            (
                call(1, "a").replace(" api=", " libvirt=hyperv api="),
                "api/t.api:5: `libvirt=hyperv`: qemu, test, lxc or xen",
            ),
            (call(1, "a").replace(" api=", " flags=1 api="), "api/t.api:5: flags= needs a field `flags`"),
            (format!("{}{}", call(1, "a"), call(1, "b")), "api/t.api:6: number 1 is taken already"),
            (format!("{}{}", call(1, "a"), call(3, "b")), "api/t.api:6: number 2 is missing before 3"),
            (format!("{}{}", call(1, "a"), call(2, "a")), "api/t.api:6: operation `a` stands twice"),
            (
                "\nstruct pool { vol: volume }\n".to_owned(),
                "api/t.api:6: no type `remote.volume` stands above this row",
            ),
            (
                "struct pool { vol: qemu.volume }\n".to_owned(),
                "api/t.api:5: no type `qemu.volume` stands above this row",
            ),
            ("struct pool { vol: int<MANY> }\n".to_owned(), "api/t.api:5: no constant `MANY` stands above this row"),
            ("struct domain { id: int }\n".to_owned(), "api/t.api:5: type `domain` stands twice"),
            ("struct pool { id: int, id: int }\n".to_owned(), "api/t.api:5: field `id` stands twice"),
            ("struct me { me: me? }\n".to_owned(), "api/t.api:5: no type `remote.me` stands above this row"),
            (
                "call 1 a() -> () acl=a:b since=1.0.0 api=x\n".to_owned(),
                "api/t.api:5: the access rule is missing: read, write or write_if=",
            ),
            ("call 1 a() -> () read acl=a:b api=x\n".to_owned(), "api/t.api:5: `since=` is missing"),
            ("call 1 a() -> () read acl=a:b since=1.0 api=x\n".to_owned(), "api/t.api:5: `since=1.0` is no release"),
            (
                "call 1 a() -> () read since=1.0.0 api=x\n".to_owned(),
                "api/t.api:5: acl= is missing, or stands beside acl=none or no_auth",
            ),
            (
                "call 1 a() -> () read acl=domain since=1.0.0 api=x\n".to_owned(),
                "api/t.api:5: `domain` is no object:permission",
            ),
            ("call 1 a() -> () read acl=a:b since=1.0.0\n".to_owned(), "api/t.api:5: api= is missing"),
            (
                "call 1 a(f: int) -> () write_if=f&1 acl=a:b since=1.0.0 api=x\n".to_owned(),
                "api/t.api:5: write_if= names `f`, which is no uint argument",
            ),
            (
                "call 1 a() -> () read high_up acl=a:b since=1.0.0 api=x\n".to_owned(),
                "api/t.api:5: `high_up` is no rule of a call",
            ),
            ("event 1 a() since=1.0.0 write\n".to_owned(), "api/t.api:5: `write` is no rule of an event"),
            ("event 1 a() since=1.0.0 id=dominos:1\n".to_owned(), "api/t.api:5: `dominos` is no family of events"),
            ("union u { 1 a: int, 1 b: int }\n".to_owned(), "api/t.api:5: the arms of `u` need numbers of their own"),
            ("\n    indented\n".to_owned(), "api/t.api:6: an indented line carries on a row, but none stands above"),
            ("gadget\n".to_owned(), "api/t.api:5: `gadget` begins no row"),
            ("struct pool { id: int } and more\n".to_owned(), "api/t.api:5: something follows the end of the row"),
            (
                "call 1 a() -> () read acl=a:b fds_in=3..1 since=1.0.0 api=x\n".to_owned(),
                "api/t.api:5: `3..1` is no range",
            ),
        ];
        for (rows, expected) in cases {
            assert_eq!(fault(&rows), expected);
        }
    }

    #[test]
    fn two_programs_need_two_numbers() {
        let (one, two) = (read("").unwrap(), read("").unwrap());
        let fault = check::check_together(&[one, two]).unwrap_err().to_string();
        assert_eq!(fault, "api/t.api:1: program 0x20 is remote already");
    }
}
