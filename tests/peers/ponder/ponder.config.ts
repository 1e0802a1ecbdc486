// The peer of `scripts/bench indexer`: the same contract, tuned as its users would.
import { createConfig } from "ponder";
import { http, parseAbi } from "viem";

export default createConfig({
  database: { kind: "postgres", connectionString: process.env.DATABASE_URL },
  networks: {
    local: {
      chainId: 31337,
      // viem refuses answers beyond 10 MB
      transport: http(process.env.RPC_URL, { maxResponseBodySize: false }),
      // its default is 50, made for public nodes
      maxRequestsPerSecond: 100_000,
    },
  },
  contracts: {
    Emitter: {
      abi: parseAbi(["event Transfer(address indexed from, address indexed to, uint256 value)"]),
      network: "local",
      address: process.env.EMITTER as `0x${string}`,
      startBlock: Number(process.env.FIRST_BLOCK),
      endBlock: Number(process.env.LAST_BLOCK),
    },
  },
});
