from preparation.synthetic.rooms import main

if __name__ == "__main__":
    main()
