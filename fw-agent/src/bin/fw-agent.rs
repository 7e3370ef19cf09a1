fn main() {
    let dir = std::path::Path::new("/sys/fs/bpf/tapwall-dev");
    let mut k = match fw_agent::datapath::Kernel::open(dir, fw_agent::datapath::AttachMode::Tcx) {
        Ok(k) => k,
        Err(e) => {
            let mut e: &dyn std::error::Error = &e;
            loop {
                eprintln!("{e}");
                match e.source() {
                    Some(s) => e = s,
                    None => break,
                }
            }
            std::process::exit(2)
        }
    };
    println!("{:?}", k.verified_instructions());
}
